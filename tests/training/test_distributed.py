"""Training in two processes on the CPU (gloo), against the same in one."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import fastconv
from fastconv import training
from fastconv.data import EpochSampler, build_loader
from fastconv.data.loading import BatchParts
from fastconv.training.checkpoint import load_state
from fastconv.training.progress import Progress

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch without gloo",
)

ROOT = os.path.dirname(os.path.dirname(fastconv.__file__))
# Without dropout, which draws for each process's images. An odd batch: parts of 16 and 17 images.
ARGUMENTS = ["--model", "digits_convnet", "--model-kwargs", "dropout=0.0", "--epochs", "2"]
ARGUMENTS += ["--batch-size", "33", "--lr", "0.02", "--warmup-epochs", "0.5", "--threads", "1"]
ARGUMENTS += ["--sched", "plateau", "--save-every", "7", "--max-filter-rms", "0.3"]


class Silent(Progress):
    def say(self, text):
        pass


def spawn(processes, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "fastconv", "train"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return output


def state_of(run):
    return load_state(fastconv.Run.open(run, weights=None))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    finish(spawn(1, *ARGUMENTS, "--output", run))
    return state_of(run)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    run = tmp_path_factory.mktemp("together") / "run"
    return run, finish(spawn(2, *ARGUMENTS, "--output", run))


def assert_same_training(state, alone):
    """Only the order of sums differs. After 86 steps the weights agree to some 1e-7 of the largest,
    or to some 1e-4 where rounding once sent a ReLU or a maximum to its other side."""
    for name, weight in alone["model"].items():
        error = (state["model"][name] - weight).abs().max() / weight.abs().max()
        assert error < 1e-3, name
    for row, expected in zip(state["history"], alone["history"], strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
        # One image of 1433 or of 364 may fall to the other side of a tie.
        assert row["train_top1"] == pytest.approx(expected["train_top1"], abs=1.01 / 1433)
        assert row["val_top1"] == pytest.approx(expected["val_top1"], abs=1.01 / 364)
        assert (row["step"], row["lr"]) == (expected["step"], expected["lr"])


def test_two_processes_learn_what_one_does(alone, together):
    run, output = together
    assert_same_training(state_of(run), alone)
    assert output.count("epoch 1/2") == 1, "the first process alone speaks"
    assert "2 processes" in output
    metrics = fastconv.Run.open(run).history
    assert len(metrics) == 2


def test_a_dead_process_ends_the_other_and_one_goes_on_alone(tmp_path, alone):
    run = tmp_path / "run"
    process = spawn(2, *ARGUMENTS, "--output", run)
    wait_for_mid_epoch(process, run)
    victim = next(pid for pid, env in workers(process.pid) if env.get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - began < 60, "the other was not to wait"
    assert "process 0 of 2 ends, because another one has" in output
    assert "fastconv/training" not in output, "one line is enough, no traceback"
    state = state_of(run)
    assert (state["epoch"], state["step"]) > (0, 0)
    finish(spawn(1, "--resume", run))
    assert_same_training(state_of(run), alone)


def test_what_one_began_two_can_end(tmp_path, alone):
    run = tmp_path / "run"
    process = spawn(1, *ARGUMENTS, "--output", run)
    wait_for_mid_epoch(process, run)
    process.kill()
    process.communicate()
    assert "resuming" in finish(spawn(2, "--resume", run))
    assert_same_training(state_of(run), alone)


def test_a_wrong_setting_is_said_once(tmp_path):
    process = spawn(2, "--model", "nothing", "--output", tmp_path / "run")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("unknown model 'nothing'") == 1
    assert not (tmp_path / "run").exists()


def wait_for_mid_epoch(process, run):
    state, saves, last = run / "state.pt", 0, None
    while process.poll() is None and saves < 3:
        if state.exists() and (stamp := state.stat().st_mtime_ns) != last:
            saves, last = saves + 1, stamp
        time.sleep(0.001)
    assert process.poll() is None, process.communicate()[0]


def workers(launcher):
    """The processes that torchrun started, with their environment."""
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc")
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                parent = int(f.read().rpartition(")")[2].split()[1])
            if parent == launcher:
                with open(f"/proc/{entry}/environ") as f:
                    pairs = [line.partition("=") for line in f.read().split("\0")]
                yield int(entry), {name: value for name, _, value in pairs}
        except (FileNotFoundError, ProcessLookupError):
            continue


# -- in this process -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_parts_of_a_batch_are_the_batch(size):
    sampler = EpochSampler(50, seed=1)
    batches = torch.utils.data.BatchSampler(sampler, 4, drop_last=False)
    parts = [list(BatchParts(batches, rank, size)) for rank in range(size)]
    assert all(len(part) == len(batches) for part in parts)
    for whole, *ofs in zip(batches, *parts, strict=True):
        assert [key for part in ofs for key in part] == whole
        assert max(map(len, ofs)) - min(map(len, ofs)) <= 1


def test_a_loader_gives_its_process_s_part():
    dataset = fastconv.data.open_dataset(None, "val")
    whole = [images for images, *_ in build_loader(dataset, None, 10)]
    parts = [
        [images for images, *_ in build_loader(dataset, None, 10, rank=rank, processes=2)]
        for rank in (0, 1)
    ]
    for images, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([first, second]), images)


def one_step(folder, **settings):
    settings = {"model": "digits_convnet", "batch_size": 33, "lr": 0.02, **settings}
    settings = {"model_kwargs": {"dropout": 0.0}, "epochs": 1, **settings}
    trainer = training.start(training.Settings(output=str(folder), **settings), progress=Silent())
    trainer.stepper.prepare()
    images, targets, skipped = next(iter(trainer.train_loader))
    trainer._train_step(images, targets, skipped, len(images))
    return trainer


@pytest.mark.parametrize("parts", [2, 5, 40])
def test_accumulated_gradients_are_the_batches(tmp_path, parts):
    whole = one_step(tmp_path / "whole")
    accumulated = one_step(tmp_path / "parts", grad_accum_steps=parts)
    for got, expected in zip(accumulated.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(accumulated.totals.sums, whole.totals.sums, rtol=1e-6, atol=0)


def test_accumulation_can_change_on_resume(tmp_path):
    training.start(
        training.Settings(model="digits_convnet", epochs=1, output=str(tmp_path / "run")),
        progress=Silent(),
    )
    trainer = training.resume(tmp_path / "run", {"grad_accum_steps": 3}, progress=Silent())
    assert trainer.settings.grad_accum_steps == 3


@pytest.mark.slow
def test_a_compiled_network_takes_the_same_step(tmp_path):
    whole = one_step(tmp_path / "whole")
    compiled = one_step(tmp_path / "compiled", compile=True)
    for got, expected in zip(compiled.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    state = compiled.state_dict(compiled.totals)
    assert state["model"].keys() == whole.model.state_dict().keys()


def test_processes_share_no_smaller_batch(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"at least the number of processes \(got 1 for 2\)"):
        training.setup._use_machine(
            training.Settings(batch_size=1), type("World", (), {"size": 2, "local_rank": 0})
        )
