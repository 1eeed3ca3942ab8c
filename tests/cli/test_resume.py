"""A run that is killed or interrupted and then resumed ends with an uninterrupted run's bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import fastconv

SETTINGS = ["--epochs", "6", "--batch-size", "32", "--save-every", "3", "--threads", "1"]
SETTINGS += ["--sched", "step", "--warmup-epochs", "0.5", "--seed", "7"]


def command(*arguments):
    return [sys.executable, "-m", "fastconv", "train", *map(str, arguments)]


def spawn(*arguments):
    root = os.path.dirname(os.path.dirname(fastconv.__file__))
    return subprocess.Popen(
        command(*arguments), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*arguments):
    process = spawn(*arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def wait_until_mid_epoch(process, run):
    """Until the third save since training began, which stands in the middle of an epoch."""
    state, saves, last = run / "state.pt", 0, None
    while process.poll() is None and saves < 4:
        if state.exists() and (stamp := state.stat().st_mtime_ns) != last:
            saves, last = saves + 1, stamp
        time.sleep(0.001)
    assert process.poll() is None, "training ended before it could be stopped"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(*SETTINGS, "--output", run)
    return load_file(run / "last.safetensors"), (run / "log.csv").read_text()


def assert_same(run, uninterrupted):
    weights, log = uninterrupted
    got = load_file(run / "last.safetensors")
    assert got.keys() == weights.keys()
    assert all(torch.equal(got[name], weights[name]) for name in weights)
    timed = ("images_per_second", "data_wait", "seconds")
    assert without(timed, (run / "log.csv").read_text()) == without(timed, log)


def without(columns, log):
    header, *rows = [line.split(",") for line in log.splitlines()]
    keep = [i for i, name in enumerate(header) if name not in columns]
    return [[row[i] for i in keep] for row in rows]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigkill_in_mid_epoch(tmp_path, uninterrupted):
    run = tmp_path / "run"
    process = spawn(*SETTINGS, "--output", run)
    wait_until_mid_epoch(process, run)
    process.kill()
    process.communicate()
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["step"] > 0, "the kill was meant to come in the middle of an epoch"
    assert "resuming" in finish("--resume", run)
    assert_same(run, uninterrupted)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, uninterrupted):
    run = tmp_path / "run"
    process = spawn(*SETTINGS, "--output", run)
    wait_until_mid_epoch(process, run)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "all is saved in" in output and f"next: fastconv train --resume {run}" in output
    assert (run / "last.safetensors").exists()
    finish("--resume", run)
    assert_same(run, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    run = tmp_path / "run"
    finish("--epochs", "1", "--output", run)
    before = load_file(run / "last.safetensors")
    finish("--resume", run)
    after = load_file(run / "last.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
