"""The Python blocks of the README and the docs run as they stand."""

import re
from pathlib import Path

import pytest

import fastconv

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(code, page, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    )
]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """What `fastconv train --output runs/pets` leaves, from one epoch on the digits, and a picture
    beside it."""
    from PIL import Image

    from fastconv.cli import main

    path = tmp_path_factory.mktemp("readme") / "runs" / "pets"
    assert main(["train", "--epochs", "1", "--output", str(path)]) == 0
    Image.linear_gradient("L").save(path.parents[1] / "holiday.jpg")
    return path


def test_there_are_blocks():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize(("code", "page"), BLOCKS)
def test_block_runs(code, page, a_run, monkeypatch):
    monkeypatch.chdir(a_run.parents[1])
    import torch

    exec(compile(code, str(page), "exec"), {"fastconv": fastconv, "torch": torch})
