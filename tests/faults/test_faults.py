"""Faults under way: kills, workers that die, data that changes, folders that cannot be written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import campaign
import numpy as np
import pytest
import torch
from PIL import Image

from fastconv.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "pack"])
def test_kills_at_random_moments(name, tmp_path):
    """The campaign's short form; the long one, of all commands, is in docs/reliability.md."""
    assert campaign.disturb(name, kills=2, seed=1, root=tmp_path)["went back"] == 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for split, count in (("train", 200), ("val", 20)):
        for label, level in (("dark", 64), ("bright", 192)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = (level + noise.normal(0, 20, (40, 40, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i:03}.png")
    return root


@pytest.fixture
def data(pictures, tmp_path):
    return shutil.copytree(pictures, tmp_path / "data")


def train(data: Path, run: Path, *more: str) -> list[str]:
    model = ["--model", "cifar_dropconnect", "--batch-size", "10", "--threads", "1", "--lr", "1e-4"]
    return ["train", str(data), *model, "--save-every", "2", "--output", str(run), *more]


def wait_for_save(process, run):
    while process.poll() is None and not (run / "state.pt").exists():
        time.sleep(0.01)
    state = (run / "state.pt").stat().st_mtime_ns if (run / "state.pt").exists() else 0
    while process.poll() is None and (run / "state.pt").stat().st_mtime_ns == state:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


def children(process) -> list[int]:
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in listing.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker by /proc")
def test_a_worker_that_is_killed(data, tmp_path):
    run = tmp_path / "run"
    process = campaign.start(train(data, run, "--epochs", "50", "--workers", "1"))
    wait_for_save(process, run)
    for pid in children(process):
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1, said
    assert "a process that reads images was ended from outside" in said
    assert "Traceback" not in said and "what is kept in" in said
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["epoch"] * 40 + state["step"] >= 2


@pytest.mark.parametrize("error", [ConnectionResetError, ConnectionRefusedError, EOFError])
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_worker_that_is_killed_in_mid_batch(command, error, data, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    if command == "eval":
        assert main(train(data, run, "--epochs", "1")) == 0

    def torn(self):
        raise error

    monkeypatch.setattr("torch.utils.data.dataloader._BaseDataLoaderIter.__next__", torn)
    assert main(train(data, run) if command == "train" else ["eval", str(run)]) == 1
    assert "a process that reads images was ended from outside" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_pictures_that_go_away_are_skipped(data, tmp_path, workers):
    run = tmp_path / "run"
    process = campaign.start(train(data, run, "--epochs", "2", "--workers", workers))
    wait_for_save(process, run)
    gone = sorted((data / "train" / "dark").glob("*.png"))[:30]
    for path in gone:
        path.unlink()
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    listed = (run / "unreadable.log").read_text()
    assert sum(path.name in listed for path in gone) >= 25  # some may have been read before


def test_data_that_is_gone_as_a_whole(data, tmp_path):
    run = tmp_path / "run"
    process = campaign.start(train(data, run, "--epochs", "50", "--workers", "1"))
    wait_for_save(process, run)
    data.rename(tmp_path / "elsewhere")
    said = process.communicate(timeout=120)[1].strip()
    assert process.returncode == 2, said
    assert "No such file or directory" in said and "Traceback" not in said
    (tmp_path / "elsewhere").rename(data)
    resumed = campaign.start(["train", "--resume", str(run)])
    wait_for_save(resumed, run)
    campaign.kill(resumed)


def test_strict_reading_names_the_file_in_one_line(data, tmp_path):
    (data / "train" / "dark" / "007.png").write_bytes(b"no picture")
    process = campaign.start(train(data, tmp_path / "run", "--strict", "--workers", "1"))
    said = process.communicate(timeout=120)[1].strip()
    assert process.returncode == 2, said
    assert "007.png: not an image" in said.splitlines()[-1] and "Traceback" not in said


def test_ctrl_c_twice(data, tmp_path):
    run = tmp_path / "run"
    process = campaign.start(train(data, run, "--epochs", "50", "--workers", "1"))
    wait_for_save(process, run)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the workers too
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode in (130, -signal.SIGINT), said
    assert "Traceback" not in said
    campaign.check_whole(run)
    torch.load(run / "state.pt", weights_only=True)


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(data, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    process = campaign.start(train(data, locked / "run"))
    said = process.communicate(timeout=120)[1].strip()
    assert process.returncode == 2 and "Permission denied" in said.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's disk that is always full")
def test_a_full_disk_ends_other_commands_in_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", _FULL, "pack", "x"],
        cwd=campaign.ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    assert "not written: No space left on device" in process.stderr
    assert "Traceback" not in process.stderr


_FULL = """
import sys
from pathlib import Path
from unittest import mock
from fastconv import cli
from fastconv._files import atomic_open

def write(args):
    with atomic_open(Path("/dev/shm/fastconv-full")) as f:
        with open("/dev/full", "wb") as full:
            full.write(bytes(10_000_000))

with mock.patch.object(cli.pack, "run", write):
    sys.exit(cli.main(["pack", "x", "y"]))
"""
