"""The README and the pages of docs/: their Python runs, their commands are commands."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest

import fastconv
from fastconv.cli import build_parser, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES]
PAGE = pytest.mark.parametrize("page", PAGES, ids=NAMES)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# Flags in the text that are another program's.
OTHERS = {
    "pip": {"--no-build-isolation", "--upgrade", "--force-reinstall", "--no-deps"},
    "torchrun": {"--nproc-per-node", "--nnodes", "--rdzv-endpoint"},
    "docker": {"--shm-size"},
    "bench": {"--compiled"},
    "the tests' own tools": {"--op", "--cases", "--calls"},
}


def fences(page, *languages):
    return [
        code for language, code in _FENCE.findall(page.read_text("utf-8")) if language in languages
    ]


def commands(page):
    """The page's ``fastconv ...`` lines, split as a shell would."""
    found = []
    for line in "".join(fences(page, "", "sh")).replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if words[:1] == ["torchrun"] and "fastconv" in words:
                words = words[words.index("fastconv") :]
            if words[:1] == ["fastconv"]:
                found.append(words[1:])
    return found


def subcommands():
    actions = build_parser()._actions
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory):
    """What the pages take for granted: the run runs/pets, here of digits, one epoch long, under its
    other names too, and a picture, holiday.jpg."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("docs")
    assert main(["train", "--epochs", "1", "--output", str(folder / "runs" / "pets")]) == 0
    (folder / "runs" / "digits").symlink_to("pets")
    Image.linear_gradient("L").save(folder / "holiday.jpg")
    return folder


def test_there_are_pages_with_blocks_and_commands():
    assert sum(bool(fences(page, "python")) for page in PAGES) >= 15
    assert sum(len(commands(page)) for page in PAGES) >= 40


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=n) for p, n in zip(PAGES, NAMES, strict=True) if fences(p, "python")],
)
def test_blocks_run(page, a_folder, monkeypatch):
    """One after another, as a reader would type them."""
    import torch

    monkeypatch.chdir(a_folder)
    torch.manual_seed(0)
    code = "\n".join(fences(page, "python"))
    exec(compile(code, str(page), "exec"), {"fastconv": fastconv, "torch": torch})


@PAGE
def test_commands_are_understood(page):
    for words in commands(page):
        try:
            build_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"fastconv {shlex.join(words)}")


@PAGE
def test_flags_exist(page):
    """Those that the text names, in `code`, too."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    known = {"--help", "--version"}.union(*OTHERS.values())
    for parser in subcommands().values():
        known.update(option for action in parser._actions for option in action.option_strings)
    named = {flag for code in re.findall(r"`[^`]+`", text) for flag in _FLAG.findall(code)}
    assert named <= known


def test_every_option_is_explained():
    for name, parser in subcommands().items():
        assert not [a.option_strings or a.dest for a in parser._actions if not a.help], name


def test_an_invented_flag_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```\nfastconv train --epoks 3  # so\n```\n")
    assert commands(page) == [["train", "--epoks", "3"]]
    with pytest.raises(SystemExit):
        build_parser().parse_args(commands(page)[0])


def test_speed_tables_hold_the_measured_rows(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "build_support")
    from docs_hooks import speed_table

    report = json.loads((ROOT / "bench/results/cpu/report.json").read_text("utf-8"))
    measured = [row for row in report["rows"] if row["op"] == "maxout"]
    table = [line for line in speed_table(["maxout"]).splitlines() if "| forward" in line]
    assert len(table) >= len(measured) > 0
    for row in measured:
        cells = f"| {row['shape']} | {row['batch']} | {row['pass']} |"
        assert any(cells in line and f" {row['ratio']:.2f} |" in line for line in table)
    with pytest.raises(ValueError, match="no rows of maxin"):
        speed_table(["maxin"])


def sources():
    """The package's and the build's texts, string literals over several lines joined."""
    files = [*(ROOT / "fastconv").rglob("*.py"), *(ROOT / "build_support").glob("*.py")]
    files += (ROOT / "csrc").rglob("*.h")
    text = "\n".join(file.read_text("utf-8") for file in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def test_messages_that_are_explained_are_printed():
    """troubleshooting.md: the headings up to other programs' messages."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    ours, _, others = page.partition("## What others print")
    headings = re.findall(r"^### `(.+)`$", ours, re.M)
    assert len(headings) >= 12 and others
    text = sources()
    for heading in headings:
        for part in filter(str.strip, heading.split("…")):
            assert part.strip(" ()") in text, heading
