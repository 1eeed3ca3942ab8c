"""What a run survives: kills at every write, a full disk, a loss that is no number."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

import fastconv
from fastconv import training
from fastconv._files import read_tensors
from fastconv.training import diagnosis
from fastconv.training.checkpoint import load_state
from fastconv.training.progress import Progress

ROOT = os.path.dirname(os.path.dirname(fastconv.__file__))


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def start(folder, **settings):
    settings = {"model": "digits_convnet", "epochs": 1, "batch_size": 64, "lr": 0.02, **settings}
    progress = Lines()
    return training.start(training.Settings(output=str(folder), **settings), progress=progress)


def drive(script, *arguments):
    """Run `script` in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Trains once to the end, and then again and again, each time killed at another write of a file:
# before the finished file takes its place, or right after. Each of those goes on in a new process.
# Forking spares each of them the seconds of an import.
_KILLS = """
import os, signal, sys
import sklearn.datasets, torch
torch.set_num_threads(1)
from fastconv import training
from fastconv.training import history
from fastconv.training.progress import Progress

history.plot_curves = lambda *a: False  # a second each, and nothing depends on it
class Silent(Progress):
    def say(self, text): pass

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def train(folder, kill_at=None):
    settings = training.Settings(model="digits_convnet", epochs=2, batch_size=478, lr=0.05,
                                 save_every="1", warmup_epochs=0.5, output=folder)
    trainer = training.start(settings, progress=Silent())
    if kill_at is not None:
        seen, replace = 0, os.replace
        def killing(*names):
            nonlocal seen
            for place in (0, 1):
                if place == 1:
                    replace(*names)
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        os.replace = killing
    trainer.fit()

def resume(folder):
    training.resume(folder, progress=Silent()).fit()

root = sys.argv[1]
assert in_child(lambda: train(f"{root}/whole")) == 0
point = killed = 0
while True:
    folder = f"{root}/{point}"
    code = in_child(lambda: train(folder, point))
    assert code in (0, -signal.SIGKILL), code
    if code == 0:
        break
    killed += 1
    assert in_child(lambda: resume(folder)) == 0
    point += 3  # odd, so that both places come up
print(killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_write_a_run_ends_with_the_uninterrupted_ones_bits(tmp_path):
    killed = int(drive(_KILLS, tmp_path).split()[-1])
    assert killed >= 6
    whole = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    log = (tmp_path / "whole" / "log.csv").read_text().splitlines()
    for folder in (p for p in tmp_path.iterdir() if p.name != "whole"):
        state = torch.load(folder / "state.pt", weights_only=True)
        for part in ("model", "optimizer"):
            assert_equal(state[part], whole[part])
        assert (state["epoch"], state["step"]) == (2, 0)
        assert {p.name for p in folder.iterdir()} == {
            p.name for p in (tmp_path / "whole").iterdir()
        }
        for name in ("last", "best"):
            got, wanted = (f / f"{name}.safetensors" for f in (folder, tmp_path / "whole"))
            assert_equal(read_tensors(got), read_tensors(wanted))
        assert len((folder / "log.csv").read_text().splitlines()) == len(log) == 3


def assert_equal(got, wanted):
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(got, wanted)
    elif isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert_equal(got[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_equal(one, other)
    else:
        assert got == wanted


# The system itself refuses to write: a limit on the size of files stands in for a full disk. The
# errors take the same ways through Python, torch and safetensors.
_FULL = """
import resource, signal, sys
from fastconv import training
from fastconv._files import WriteError
from fastconv.training.progress import Progress

class Out(Progress):
    def say(self, text): print(text)

settings = training.Settings(model="digits_convnet", batch_size=64, epochs=2, save_every="9",
                             output=sys.argv[1])
trainer = training.start(settings, progress=Out())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
try:
    trainer.fit()
except WriteError as error:
    print("ended:", error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of the size of files")
def test_a_full_disk_keeps_the_old_state_and_says_so(tmp_path):
    run = tmp_path / "run"
    said = drive(_FULL, run)
    reason = os.strerror(27)  # EFBIG; a full disk's is 28
    assert said.count(f"state.pt: not written: {reason}\n") == 3
    assert said.count("training goes on; the next save may find room") == 2
    ended = said.partition("ended: ")[2]
    assert f"state.pt: not written: {reason}" in ended
    assert "state.pt of epoch 1, 0 of 22 steps done" in ended
    assert not list(run.glob(".*")), "no part of a file is left"
    state = load_state(fastconv.Run.open(run, weights=None))
    assert (state["epoch"], state["step"]) == (0, 0)
    resumed = training.resume(run, progress=Lines())
    assert resumed.fit()


@pytest.mark.parametrize("lost", ["state.pt", "best.safetensors"])
def test_a_write_that_fails_names_the_file(tmp_path, lost, monkeypatch):
    trainer = start(tmp_path / "run", save_every="1h")
    replace = os.replace

    def failing(source, target):
        if os.fspath(target).endswith(lost):
            raise OSError(28, os.strerror(28))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match=rf"{lost}: not written: No space left on device"):
        trainer.fit()
    monkeypatch.undo()
    if lost != "state.pt":  # what follows from the state is written when training goes on
        training.resume(tmp_path / "run", progress=Lines())
        assert (tmp_path / "run" / lost).exists()


def test_a_loss_that_is_no_number_names_the_layer_and_spares_the_weights(tmp_path):
    trainer = start(tmp_path / "run", save_every="3")

    def overflow(module, inputs, output):
        return output * math.inf if trainer.step >= 5 else output

    trainer.model.conv2.register_forward_hook(overflow)
    with pytest.raises(training.TrainingDiverged) as caught:
        trainer.fit()
    text = str(caught.value)
    assert "in epoch 1, step 6 of 22, at learning rate 0.02" in text
    assert "conv2 is the first layer to leave the range of numbers" in text
    assert "state.pt of epoch 1, 3 of 22 steps done" in text
    assert "a lower --lr (0.002), or --warmup-epochs 1, or --grad-clip 1" in text
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    state = load_state(trainer.run)
    assert (state["epoch"], state["step"]) == (0, 3)
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert report["step"] == 6 and len(report["images"]) == 64
    assert math.isfinite(float(report["largest_output"]["conv1"]))
    assert not math.isfinite(float(report["largest_output"]["conv2"]))
    trainer.sampler.set_epoch(0, 5 * 64)
    assert report["images"] == [index for index, _ in list(trainer.sampler)[:64]]


def test_bad_images_and_bad_weights_are_told_apart(tmp_path):
    trainer = start(tmp_path / "run")
    images, targets = torch.rand(4, 1, 8, 8), torch.arange(4)
    finding = diagnosis.examine(trainer.model, images, targets)
    assert math.isfinite(finding.loss) and finding.text("here", 0.1, trainer.settings) is None
    expected = trainer.model.conv1(images).abs().max().item()
    assert finding.outputs["conv1"] == pytest.approx(expected)
    assert "loss overflowed" in finding.cause
    images[2, 0, 3, 3] = math.nan
    assert "images themselves" in diagnosis.examine(trainer.model, images, targets).cause
    images.fill_(0.5)
    with torch.no_grad():
        trainer.model.fc3.weight[0, 0] = math.inf
    assert "fc3.weight holds inf" in diagnosis.examine(trainer.model, images, targets).cause


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """A gradient can overflow under a finite loss; the next save must not keep its weights."""
    trainer = start(tmp_path / "run", save_every="1")
    trainer.model.conv1.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(training.TrainingDiverged, match=r"conv1\.weight holds"):
        trainer.fit()
    weights = load_state(trainer.run)["model"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_loss_that_stays_at_chance_is_called_out(tmp_path):
    trainer = start(tmp_path / "run", epochs=4, batch_size=16, lr=1e-9)
    trainer.fit()
    (advice,) = [line for line in trainer.progress.lines if "answers by chance" in line]
    assert "after 300 steps" in advice and "ln(10) = 2.3026" in advice
    assert "the learning rate, 1e-09" in advice


def test_a_loss_that_falls_is_not(tmp_path):
    trainer = start(tmp_path / "run", epochs=4, batch_size=16)
    trainer.fit()
    assert not [line for line in trainer.progress.lines if "chance" in line]


@pytest.mark.parametrize(
    ("loss", "classes", "called_out"),
    [(6.9, 1000, True), (6.5, 1000, False), (7.3, 1000, False), (0.69, 2, True), (0.0, 1, False)],
)
def test_chance_is_the_logarithm_of_the_classes(loss, classes, called_out):
    settings = training.Settings(model="alexnet")
    advice = diagnosis.plateau_advice(loss, classes, 300, settings)
    assert (advice is not None) == called_out
    assert not called_out or "init=he" in advice


def test_sigterm_saves(tmp_path):
    """As Ctrl-C: what a cluster sends before it takes a machine away."""
    command = [
        "train",
        "--model",
        "digits_convnet",
        "--epochs",
        "500",
        "--threads",
        "1",
        "--output",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv", *command, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while "epoch 1/500" not in (line := process.stdout.readline()):
        assert line, "training ended early"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "all is saved in" in output
