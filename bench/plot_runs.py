"""Training and test error of several runs in one picture, and their ends as a table.

    python bench/plot_runs.py OUT.png RUN...

A RUN is a run's folder or a copy of its log.csv; the last word of its name (pooling-max: max) is
its label. Training errors are those of the log: in training mode, over the epoch, so with whatever
a regulariser draws. The table goes to standard output, in Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

from fastconv.run import read_log

# Okabe and Ito's, told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def read(paths: list[Path]) -> dict[str, list[dict]]:
    """Rows by label, a row an epoch."""
    runs = {}
    for path in paths:
        rows = read_log(path / "log.csv" if path.is_dir() else path)
        if not rows:
            raise SystemExit(f"{path}: no log of a run")
        runs[path.stem.rpartition("-")[2]] = rows
    return runs


def error(row: dict, split: str) -> float:
    """Per cent that were not top-1, of "train" or "val"."""
    return 100 * (1 - row[f"{split}_top1"])


def plot(runs: dict[str, list[dict]], out: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    for (label, rows), colour in zip(runs.items(), COLOURS, strict=False):
        epochs = [row["epoch"] for row in rows]
        for split, style, words in (("val", "-", "test"), ("train", "--", "training")):
            errors = [error(row, split) for row in rows]
            axes.plot(epochs, errors, style, color=colour, linewidth=1.6, label=f"{label}, {words}")
    axes.set(xlabel="epoch", ylabel="error, %", ylim=(0, None), xlim=(0, None))
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(runs), fontsize=9)
    figure.savefig(out)


def table(runs: dict[str, list[dict]]) -> str:
    lines = ["| variant | epochs | training | test | best test (epoch) |", "|---|---|---|---|---|"]
    for label, rows in runs.items():
        best, last = min(rows, key=lambda row: error(row, "val")), rows[-1]
        lines.append(
            f"| {label} | {last['epoch']} | {error(last, 'train'):.2f} % | "
            f"{error(last, 'val'):.2f} % | {error(best, 'val'):.2f} % ({best['epoch']}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", metavar="OUT.png", type=Path)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    args = parser.parse_args()
    if len(args.runs) > len(COLOURS):
        parser.error(f"at most {len(COLOURS)} runs in one picture (got {len(args.runs)})")
    runs = read(args.runs)
    plot(runs, args.out)
    print(table(runs))


if __name__ == "__main__":
    main()
