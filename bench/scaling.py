"""How an op's time grows with batch, image size, maps and threads: a CSV and a plot.

    python bench/scaling.py --output bench/results/scaling

One thing varies at a time from batch 8, 56x56 pixels, 64 maps and all threads; the median of at
least 5 calls counts. Lines of slope 1 on the plots' double logarithms are linear growth.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from report import commit, processor  # noqa: E402

import fastconv  # noqa: E402

DEFAULTS = {"batch": 8, "size": 56, "maps": 64, "threads": torch.get_num_threads()}
SWEEPS = {
    "batch": [1, 2, 4, 8, 16, 32, 64, 128],
    "size": [64, 96, 128, 192, 256, 384, 512],
    "maps": [16, 32, 64, 128, 256, 512],
    "threads": sorted({1, torch.get_num_threads()}),
}
UNITS = {"batch": "images", "size": "pixels a side", "maps": "feature maps", "threads": "threads"}


def conv2d(x):
    weight = torch.randn(x.shape[1], x.shape[1], 3, 3) / (3 * x.shape[1] ** 0.5)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: fastconv.conv2d(x, weight, None, 1, 1, algorithm="fastconv")


OPS = {
    "conv2d 3x3": conv2d,
    "max_pool2d 3x3, 2 apart": lambda x: lambda: fastconv.max_pool2d(x, 3, 2),
    "local_response_norm": lambda x: lambda: fastconv.local_response_norm(x, 5),
    "local_contrast_norm 7x7": lambda x: lambda: fastconv.local_contrast_norm(x, 7),
    "stochastic_pool2d 3x3, 2 apart": lambda x: lambda: fastconv.stochastic_pool2d(x, 3, 2),
}


def seconds(function) -> float:
    function()
    times, start = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < 0.3 and len(times) < 100):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure():
    for sweep, values in SWEEPS.items():
        for value in values:
            shape = {**DEFAULTS, sweep: value}
            torch.set_num_threads(shape["threads"])
            x = torch.rand(shape["batch"], shape["maps"], shape["size"], shape["size"])
            x = x.contiguous(memory_format=torch.channels_last)
            for name, make in OPS.items():
                row = {"op": name, "sweep": sweep, **shape}
                yield {**row, "ms": round(1000 * seconds(make(x)), 4)}
    torch.set_num_threads(DEFAULTS["threads"])


def plot(rows, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sweeps = [sweep for sweep in SWEEPS if sweep != "threads"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    for axis, sweep in zip(axes, sweeps, strict=True):
        for name, marker in zip(OPS, "os^Dv", strict=True):
            points = [(r[sweep], r["ms"]) for r in rows if r["sweep"] == sweep and r["op"] == name]
            axis.loglog(*zip(*points, strict=True), marker=marker, label=name)
        axis.set_xticks(SWEEPS[sweep], [str(value) for value in SWEEPS[sweep]])
        axis.minorticks_off()
        axis.set_xlabel(UNITS[sweep])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms, forward")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "scaling")
    args = parser.parse_args()
    rows = list(measure())
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "scaling.csv", "w", newline="") as f:
        f.write(f"# {processor(torch.device('cpu'))}, torch {torch.__version__}, {commit()}\n")
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, args.output / "scaling.png")
    for row in rows:
        if row["sweep"] == "threads":
            print(f"{row['op']}: {row['threads']} threads, {row['ms']} ms")


if __name__ == "__main__":
    main()
