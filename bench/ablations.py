"""AlexNet's variants and ablations, ZFNet and an ensemble on a small data set, at equal budget.

    python bench/ablations.py train DATA RUNS [--epochs N] [--image-size N]
    python bench/ablations.py report RUNS bench/results/ablations

``train`` makes one run after the other in the folder RUNS and passes over those that are finished,
so that it can be stopped at any time. All have the settings of the preset alexnet2012 (ZFNet those
of zfnet2013) but for `SCALED`. ``report`` evaluates them by the centre crop and by ten views, and
the ensemble, and writes a table (ablations.csv) and a picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

# What a small data set and two cores ask for: weights that start to learn at once, inputs made for
# them, one course of the rate that fits any number of epochs, and no run lost to a first step.
SCALED = [
    *("--model-kwargs", "init=he"),
    *("--units", "std", "--sched", "cosine", "--batch-size", "64"),
    *("--warmup-epochs", "0.5", "--grad-clip", "5"),
]
MACHINE = ["--amp", "--channels-last", "--workers", "1", "--threads", "1"]
# Name of a run: preset and further arguments.
RUNS = {
    "alexnet": ("alexnet2012", ["variant=paper"], []),
    "alexnet-code": ("alexnet2012", ["variant=code"], []),
    "zfnet": ("zfnet2013", [], []),
    "without-7": ("alexnet2012", ["variant=paper", "drop_layers=(7,)"], []),
    "without-6-7": ("alexnet2012", ["variant=paper", "drop_layers=(6,7)"], []),
    "without-3-4": ("alexnet2012", ["variant=paper", "drop_layers=(3,4)"], []),
    "without-3-4-6-7": ("alexnet2012", ["variant=paper", "drop_layers=(3,4,6,7)"], []),
    "alexnet-seed-1": ("alexnet2012", ["variant=paper"], ["--seed", "1"]),
}
ENSEMBLE = ("alexnet", "alexnet-code", "zfnet")
# Top-1 error on ImageNet against the whole network's, in points: R. Fergus, NIPS 2013 tutorial.
TUTORIAL = {
    "without-7": 1.1,
    "without-6-7": 5.7,
    "without-3-4": 3.0,
    "without-3-4-6-7": 33.5,
}


def train(args: argparse.Namespace) -> None:
    for name, (preset, options, more) in RUNS.items():
        path = args.runs / name
        if (path / "done").exists():
            continue
        if (path / "state.pt").exists():
            command = ["--resume", str(path)]
        else:
            scaled = list(SCALED)
            scaled[2:2] = options  # behind init=he, as further arguments of the model
            command = [str(args.data), "--config", preset, *scaled, *MACHINE, *more]
            command += ["--epochs", str(args.epochs), "--image-size", str(args.image_size)]
            command += ["--output", str(path)]
        print(name, *command, flush=True)
        subprocess.run([sys.executable, "-m", "fastconv", "train", *command], check=True)
        (path / "done").touch()


def evaluate(runs: list[Path], views: str) -> dict:
    """A run's or an ensemble's figures by ``fastconv eval --json``."""
    command = [sys.executable, "-m", "fastconv", "eval", *map(str, runs), "--views", views]
    command += ["--weights", "last", "--json", "--channels-last", "--amp"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return found.get("ensemble", found)


def report(args: argparse.Namespace) -> None:
    from fastconv import Run

    names = [name for name in RUNS if (args.runs / name / "done").exists()]
    rows = []
    for name in names:
        run = Run.open(args.runs / name, weights="last")
        figures = {views: evaluate([run.path], views) for views in ("center", "ten")}
        rows.append(row(name, run, figures))
        print(rows[-1], flush=True)
    if set(ENSEMBLE) <= set(names):
        paths = [args.runs / name for name in ENSEMBLE]
        figures = {views: evaluate(paths, views) for views in ("center", "ten")}
        rows.append(row("ensemble", None, figures))
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "ablations.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name in names:
        (args.out / f"{name}.csv").write_bytes((args.runs / name / "log.csv").read_bytes())
    plot(args.out / "ablations.png", rows)


def row(name: str, run, figures: dict[str, dict]) -> dict:
    return {
        "run": name,
        "parameters": sum(p.numel() for p in run.model.parameters()) if run else "",
        "epochs": len(run.history) if run else "",
        "center_top1_error": percent(1 - figures["center"]["top1"]),
        "center_top5_error": percent(1 - figures["center"]["top5"]),
        "ten_top1_error": percent(1 - figures["ten"]["top1"]),
        "ten_top5_error": percent(1 - figures["ten"]["top5"]),
        "train_loss": f"{run.history[-1]['train_loss']:.4f}" if run else "",
        "tutorial_more_top1_error": TUTORIAL.get(name, ""),
    }


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def plot(path: Path, rows: list[dict]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(rows) + 1.4), dpi=140)
    figure.set_layout_engine("constrained")
    places = range(len(rows))[::-1]
    for column, shift, colour, label in (
        ("center_top1_error", 0.2, "#0072B2", "centre crop"),
        ("ten_top1_error", -0.2, "#D55E00", "ten views"),
    ):
        values = [float(row[column]) for row in rows]
        bars = axes.barh([p + shift for p in places], values, 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(places, [row["run"] for row in rows])
    axes.set_xlabel("top-1 error on the validation images, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("runs", type=Path)
    training.add_argument("--epochs", type=int, default=2)
    training.add_argument("--image-size", type=int, default=96)
    training.set_defaults(run=train)
    reporting = commands.add_parser("report")
    reporting.add_argument("runs", type=Path)
    reporting.add_argument("out", type=Path)
    reporting.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
