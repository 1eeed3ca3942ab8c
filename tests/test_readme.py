"""The README's Python blocks run as they stand."""

import re
from pathlib import Path

import pytest

import fastconv

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """What `fastconv train --output runs/pets` leaves, from one epoch on the digits."""
    from fastconv.cli import main

    path = tmp_path_factory.mktemp("readme") / "runs" / "pets"
    assert main(["train", "--epochs", "1", "--output", str(path)]) == 0
    return path


def test_there_are_blocks():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("code", BLOCKS)
def test_block_runs(code, a_run, monkeypatch):
    monkeypatch.chdir(a_run.parents[1])
    import torch

    exec(compile(code, str(README), "exec"), {"fastconv": fastconv, "torch": torch})
