"""Pages: plain HTML in one file beside its pictures, for phone and desktop, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from fastconv._files import atomic_open

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: #fff; color: #222;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top: 2rem; }
a { color: #0b5394; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; color: #444; margin-top: .3rem; }
figure.wide { overflow-x: auto; }
figure.wide img { max-width: none; width: 100%; min-width: 52rem; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.gallery figure { margin: 0; }
.note { border-left: .3rem solid #0072B2; padding: .1rem .8rem; background: #f2f6fa; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
nav { font-size: .9rem; }
"""  # noqa: E501

_WIDE = 840  # pixels


class Page:
    """One HTML page, filled from top to bottom.

    Args:
        title: of the page.
        intro: a paragraph below it.
        home: file name of the page to go back to; None: none.
    """

    def __init__(self, title: str, intro: str, *, home: str | None = "index.html"):
        self.title = title
        back = f'<nav><a href="{escape(home)}">all pages</a></nav>' if home else ""
        self._parts = [back, f"<h1>{escape(title)}</h1>", f"<p>{escape(intro)}</p>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        """What follows from what is shown: the diagnosis."""
        self._parts.append(f'<p class="note">{escape(text)}</p>')

    def picture(self, path: Path, folder: Path, alt: str, caption: str = "") -> None:
        """A picture in or below ``folder``, where the page will be; ``alt`` says what it shows."""
        self._parts.append(_figure(path, folder, alt, caption))

    def gallery(self, pictures: Iterable[tuple[Path, str, str]], folder: Path) -> None:
        """Pictures (path, alt, caption) side by side, as many as there is room for."""
        figures = "\n".join(
            _figure(path, folder, alt, text, may_scroll=False) for path, alt, text in pictures
        )
        self._parts.append(f'<div class="gallery">\n{figures}\n</div>')

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        self._parts.append(f'<div class="table" tabindex="0">{table}</div>')

    def links(self, links: Iterable[tuple[str, str, str]]) -> None:
        """A list of (file, text, what is there)."""
        items = "\n".join(
            f'<li><a href="{escape(file)}">{escape(text)}</a>: {escape(what)}</li>'
            for file, text, what in links
        )
        self._parts.append(f"<ul>\n{items}\n</ul>")

    def write(self, path: Path) -> None:
        """Write the page."""
        body = "\n".join(part for part in self._parts if part)
        text = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{escape(self.title)}</title>\n<link rel="icon" href="data:,">\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )
        with atomic_open(path) as f:
            f.write(text.encode())


def _figure(path: Path, folder: Path, alt: str, caption: str, may_scroll: bool = True) -> str:
    with Image.open(path) as image:  # width and height: the page need not jump when it loads
        width, height = image.size
    source = escape(path.relative_to(folder).as_posix())
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    size = f'width="{width}" height="{height}"'
    # What is wide keeps a readable size on a narrow screen, and is moved sideways there.
    kind = ' class="wide" tabindex="0"' if may_scroll and width > _WIDE else ""
    image = f'<a href="{source}"><img src="{source}" alt="{escape(alt)}" {size}></a>'
    return f"<figure{kind}>{image}{text}</figure>"
