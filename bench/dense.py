"""Dense evaluation against cropping every window: seconds an image, checked before timed.

    python bench/dense.py [--model alexnet] [--sizes 320 448 640] [--csv FILE]

Random weights and images, one thread. Seconds are those that the process computed, so that others
on the machine count little. Crops are run in batches of --batch-size. Where layers pad, both
compute slightly different scores at windows inside the image (see
fastconv.detection.to_dense); at the network's own size they must be equal.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fastconv
from fastconv.detection import to_dense

FIELDS = ("model", "size", "windows", "crops_s", "dense_s", "speedup")
FIELDS += ("fine_windows", "fine_crops_s", "fine_s", "fine_speedup")


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The least of several runs, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def run_crops(model: torch.nn.Module, image: Tensor, boxes: Tensor, batch: int) -> None:
    """Scores of the image's windows, cut out one by one; beyond its border there are zeros."""
    right, bottom = boxes[:, 2:].amax(0).tolist()
    room = torch.nn.functional.pad(image, (0, right - image.shape[3], 0, bottom - image.shape[2]))
    for part in boxes.split(batch):
        model(torch.cat([room[:, :, t:b, a:c] for a, t, c, b in part.tolist()]))


@torch.inference_mode()
def measure(name: str, size: int, repeats: int, batch: int) -> dict[str, object]:
    model = fastconv.create_model(name).eval()
    dense = to_dense(model)
    image = torch.randn(1, *model.input_size)
    expected = model(image)
    error = (dense(image)[:, :, 0, 0] - expected).abs().max() / expected.abs().max()
    if error > 1e-4:
        raise SystemExit(f"{name}: dense scores are off by {error:.1e}")
    image = torch.randn(1, model.input_size[0], size, size)
    row: dict[str, object] = {"model": name, "size": size}
    for prefix, fine in (("", False), ("fine_", True)):
        run = dense.fine if fine else dense
        boxes = dense.windows(run(image).shape[2:], fine=fine).reshape(-1, 4)
        cropping = seconds(lambda b=boxes: run_crops(model, image, b, batch), repeats)
        passing = seconds(lambda r=run: r(image), repeats)
        row[f"{prefix}windows"] = len(boxes)
        row[f"{prefix}crops_s"] = f"{cropping:.3f}"
        row["fine_s" if fine else "dense_s"] = f"{passing:.3f}"
        row[f"{prefix}speedup"] = f"{cropping / passing:.1f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 448, 640])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for size in args.sizes:
        rows.append(measure(args.model, size, args.repeats, args.batch_size))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(args.csv, "w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
