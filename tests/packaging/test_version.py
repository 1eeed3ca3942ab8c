"""The version stands in one place, and all that shows it agrees."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import fastconv
from fastconv.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_library_and_the_command(capsys):
    assert fastconv.info()["fastconv"] == fastconv.__version__
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"fastconv {fastconv.__version__}"


def test_the_changelog():
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == fastconv.__version__


def test_the_installed_package():
    try:
        installed = metadata.distribution("fastconv")
    except metadata.PackageNotFoundError:
        pytest.skip("runs from the source tree")
    assert installed.version == fastconv.__version__
    names = [file.name for file in installed.files or []]
    if any(name.startswith("__editable__") for name in names):
        pytest.skip("an editable install lists none of the package's files")
    assert "py.typed" in names
