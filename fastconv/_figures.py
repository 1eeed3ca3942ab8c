"""What all figures share: matplotlib on demand, one style, colours that everyone can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastconv._files import atomic_path

# Okabe and Ito's colours, told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")
HEAT = "cividis"
INK, FAINT = "#333333", "#DDDDDD"


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of that many inches, independent of pyplot and its backend.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('figures need matplotlib: pip install "fastconv[visualize]"') from None
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG."""
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def plain(axes: Any, *, title: str = "", x: str = "", y: str = "") -> Any:
    """Curves' axes in the common style; returns them."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    return axes


def image(axes: Any, picture: Any, *, title: str = "", **options: Any) -> Any:
    """A picture without ticks; returns what ``imshow`` does."""
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(picture, **options)


def style_of(index: int) -> dict[str, str]:
    """Colour and dash of the index-th line: all differ in one or the other."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def bars(axes: Any, labels: Sequence[str], values: Sequence[float], colour: int = 0) -> None:
    """Horizontal bars from the top down, each with its name."""
    axes.barh(range(len(labels)), values, color=COLOURS[colour], height=0.7)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
