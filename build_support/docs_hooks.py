"""What mkdocs does to the pages of docs/ beyond its own.

The pages are written so that a repository's browser shows them, too. On the site

- a fence of ```` ```math ```` becomes MathML, which browsers set without any script,
- a picture that is an SVG file becomes part of the page, so that it takes the page's colours,
- pictures of bench/results are copied beside the pages,
- links to other files outside docs/ become their names, for the site holds docs/ alone,
- ``<!-- speed: OP ... -->`` becomes the measured rows of these ops,
- ``<!-- help: COMMAND -->`` becomes what ``fastconv COMMAND --help`` prints,
- ``<!-- file: PATH -->`` becomes that file of the repository, such as csrc/README.md.
"""

import html
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

_FILE = re.compile(r"^<!-- file: (.+) -->$", re.M)
_MATH = re.compile(r"^```math\n(.*?)\n```$", re.M | re.S)
_SVG = re.compile(r"^!\[([^\]]*)\]\(([^)]+\.svg)\)$", re.M)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\.?/[^)#\s]+)(?:#[^)]*)?\)")
_SPEED = re.compile(r"^<!-- speed: (.+) -->$", re.M)
_HELP = re.compile(r"^<!-- help: (\w+) -->$", re.M)


def on_files(files, config):
    """mkdocs calls this once: it learns of the pictures that stand beside the measurements."""
    from mkdocs.structure.files import File

    for picture in sorted(RESULTS.rglob("*.png")):
        name = picture.relative_to(RESULTS.parent).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """mkdocs calls this for every page."""
    folder, docs = Path(page.file.abs_src_path).parent, Path(config["docs_dir"])
    markdown = _FILE.sub(lambda match: file_of(match[1], folder), markdown)
    markdown = _SVG.sub(lambda match: drawing(folder / match[2], match[1]), markdown)
    markdown = _LINK.sub(lambda match: _link(match, folder, docs), markdown)
    markdown = _MATH.sub(lambda match: formula(match[1]), markdown)
    markdown = _HELP.sub(lambda match: help_of(match[1]), markdown)
    return _SPEED.sub(lambda match: speed_table(match[1].split()), markdown)


def on_page_content(content, page, config, files):
    """mkdocs calls this with a page's HTML: docstrings' roles, :func:`name`, become names."""
    return re.sub(r":(?:func|class|meth|mod):(?=<code>)", "", content)


def _link(match, folder, docs):
    picture, text, target = match[1], match[2], (folder / match[3]).resolve()
    if target.is_relative_to(docs):
        return match[0]
    if not target.exists():
        raise FileNotFoundError(f"{folder}: links to {match[3]}, which is not there")
    if picture:
        beside = docs / target.relative_to(RESULTS.parent)
        return f"![{text}]({Path(os.path.relpath(beside, folder)).as_posix()})"
    name = target.relative_to(ROOT).as_posix()
    return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}`)"


def file_of(name, folder):
    """A Markdown file of the repository as part of a page: without its title, its links kept."""
    file = ROOT / name
    _, _, text = file.read_text(encoding="utf-8").partition("\n")

    def moved(match):
        target = os.path.relpath(file.parent / match[2], folder)
        return f"{match[1]}({Path(target).as_posix()})"

    return re.sub(r"(\[[^\]]*\])\((?!https?:|#)([^)]+)\)", moved, text.strip())


def formula(latex):
    """A formula in LaTeX as MathML."""
    from latex2mathml.converter import convert

    return f'<div class="formula">{convert(latex, display="block")}</div>'


def drawing(file, title):
    """An SVG file as part of a page. Its own colours, for where it stands alone, are left out."""
    svg = re.sub(r"<style>.*?</style>", "", file.read_text(encoding="utf-8"), flags=re.S)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    return f'<figure class="drawing">{svg.replace(chr(10), "")}</figure>'


def help_of(command):
    """What ``fastconv COMMAND --help`` prints."""
    import argparse

    sys.path.append(str(ROOT))  # where fastconv is built but not installed
    from fastconv.cli import build_parser

    os.environ["COLUMNS"] = "92"  # argparse asks for the terminal's width
    actions = build_parser()._actions
    choices = next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices
    return f"```text\n{choices[command].format_help().rstrip()}\n```"


def speed_table(ops):
    """The measured rows of some ops, as Markdown: a table for each machine."""
    reports = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*/report.json"))]
    tables = [_machine_table(report, ops) for report in reports]
    if not any(tables):
        raise ValueError(f"speed: no rows of {', '.join(ops)} in bench/results/*/report.json")
    if not any("NVIDIA" in report["facts"]["device"] for report in reports):
        tables.append("On a GPU: not measured.")
    return "\n\n".join(filter(None, tables))


def _machine_table(report, ops):
    rows, facts = [row for row in report["rows"] if row["op"] in ops], report["facts"]
    if not rows:
        return ""
    instructions = f" with {facts['instructions']}" if "instructions" in facts else ""
    lines = [
        f"{facts['device']}{instructions}, {facts['dtype']}, torch {facts['torch']}, "
        f"{facts['date']}, commit {facts['commit']}. Milliseconds, each side in its better memory "
        "format; above 1, fastconv is faster.",
        "",
        "| shape | batch | pass | fastconv | best peer | ratio |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        shape = row["shape"] if len(ops) == 1 else f"{row['op']}: {row['shape']}"
        ours, peer = row["ms"][row["ours"]], row["ms"][row["best peer"]]
        kind = row["best peer"].split()[0]  # torch or compiled
        numbers = f"{_short(ours)} | {_short(peer)} ({kind}) | {row['ratio']:.2f}"
        lines.append(f"| {shape} | {row['batch']} | {row['pass']} | {numbers} |")
    return "\n".join(lines)


def _short(number):
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"
