"""The log of a run: one row an epoch, as CSV and as a picture of curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastconv._files import atomic_open, atomic_path
from fastconv.training.progress import duration

Row = dict[str, float | int | None]

# Accuracies and data_wait are fractions; seconds is the training part of the epoch.
COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_top1",
    "train_top5",
    "val_loss",
    "val_top1",
    "val_top5",
    "images_per_second",
    "data_wait",
    "seconds",
    "skipped",
)
# Okabe and Ito's colours, told apart with every kind of colour vision.
_TRAIN, _VAL, _RATE = "#0072B2", "#D55E00", "#009E73"
_INK, _FAINT = "#333333", "#DDDDDD"


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows as CSV, atomically; `fastconv.run.read_log` reads them back."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _text(row[key]) for key in COLUMNS})
    with atomic_open(path) as f:
        f.write(text.getvalue().encode())


def summary(row: Row, epochs: int, is_best: bool) -> str:
    """A row in one line for people."""
    got: dict[str, Any] = dict(row)  # here no value is absent
    mark = "  best" if is_best else ""
    skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
    return (
        f"epoch {got['epoch']}/{epochs}  lr {got['lr']:.3g}  "
        f"train loss {got['train_loss']:.4f} top-1 {100 * got['train_top1']:.2f} %  "
        f"val loss {got['val_loss']:.4f} top-1 {100 * got['val_top1']:.2f} % "
        f"top-5 {100 * got['val_top5']:.2f} %  {got['images_per_second']:.4g} img/s  "
        f"data wait {100 * got['data_wait']:.1f} %  {duration(got['seconds'])}{skipped}{mark}"
    )


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plot_curves(path: Path, rows: Sequence[Row], title: str = "") -> bool:
    """Draw loss, accuracy and learning rate against epochs into a PNG, atomically.

    Returns:
        Whether the picture was drawn: False without rows or without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not rows:
        return False
    figure = Figure(figsize=(10, 4.6), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 1))
    loss, accuracy = (figure.add_subplot(grid[0, i]) for i in (0, 1))
    if title:
        figure.suptitle(title, color=_INK, fontsize=12, x=0.01, ha="left")
    _lines(
        loss, rows, (("train_loss", _TRAIN, "-", "training"), ("val_loss", _VAL, "-", "validation"))
    )
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)
    percent = (
        ("train_top1", _TRAIN, "-", "training top-1"),
        ("val_top1", _VAL, "-", "validation top-1"),
        ("train_top5", _TRAIN, ":", "training top-5"),
        ("val_top5", _VAL, ":", "validation top-5"),
    )
    _lines(accuracy, rows, percent, scale=100)
    accuracy.set_ylabel("accuracy, %")
    _mark_best(accuracy, rows)
    for column, above in enumerate((loss, accuracy)):
        rate = figure.add_subplot(grid[1, column], sharex=above)
        above.tick_params(labelbottom=False)
        if column == 0:
            _lines(rate, rows, (("lr", _RATE, "-", ""),), drawstyle="steps-mid")
            rate.set_ylabel("rate")
        else:
            _lines(rate, rows, (("images_per_second", _RATE, "-", ""),))
            rate.set_ylabel("img/s")
        rate.set_ylim(bottom=0)
        rate.set_xlabel("epoch")
        locator: Any = rate.xaxis.get_major_locator()
    locator.set_params(integer=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")
    return True


def _lines(axes, rows, lines, scale: float = 1, **style) -> None:
    """Plot the columns that have values, each named where it is drawn."""
    marker = "o" if len(rows) < 30 else ""
    for column, colour, dash, label in lines:
        points = [(r["epoch"], r[column] * scale) for r in rows if r[column] is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=3,
                linewidth=1.6,
                label=label,
                **style,
            )
    if any(line[3] for line in lines):
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=9)


def _mark_best(axes, rows) -> None:
    scored = [row for row in rows if row["val_top1"] is not None]
    if not scored:
        return
    best = max(scored, key=lambda row: row["val_top1"])
    top1 = 100 * best["val_top1"]
    axes.plot(best["epoch"], top1, "o", color=_VAL, markersize=8, fillstyle="none")
    axes.annotate(
        f"{top1:.1f} %",
        (best["epoch"], top1),
        textcoords="offset points",
        xytext=(0, -16),
        ha="center",
        color=_VAL,
        fontsize=10,
    )
