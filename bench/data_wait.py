"""How long a training step waits for its images: AlexNet on the CPU with one worker.

    python bench/data_wait.py DATA --output bench/results/data_wait.csv

DATA is an image folder. Two epochs of `--steps` steps are trained on that many of its pictures,
with the images finished by the worker and then by the device, which here is the CPU; the second
epoch counts, for the worker starts in the first. The load average tells what else the machine did.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import sys
import tempfile
from pathlib import Path

import torch
from loading import commit, copy_photographs, processor

from fastconv import training
from fastconv.training.progress import Progress


class Silence(Progress):
    def say(self, text: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", help="CSV file to append to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_photographs(Path(args.data), root / "data", args.steps * args.batch_size, None)
        rows = [measure(root, on_device, args) for on_device in (False, True)]
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    if args.output:
        new = not Path(args.output).exists()
        with open(args.output, "a", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)


def measure(root: Path, on_device: bool, args: argparse.Namespace) -> dict:
    settings = training.Settings(
        data=str(root / "data"),
        model=args.model,
        epochs=2,
        batch_size=args.batch_size,
        workers=args.workers,
        lr=1e-3,  # nothing is to be learnt: low enough not to diverge
        device="cpu",
        channels_last=True,
        device_transforms=on_device,
        output=str(root / f"run-{on_device}"),
    )
    trainer = training.start(settings, progress=Silence())
    assert trainer.fit()
    epoch = trainer.history[-1]
    return {
        "model": args.model,
        "last_pass": "the device's" if on_device else "one pass",
        "batch_size": args.batch_size,
        "steps": trainer.steps_per_epoch,
        "workers": args.workers,
        "threads": torch.get_num_threads(),
        "data_wait": round(epoch["data_wait"], 4),
        "images_per_second": round(epoch["images_per_second"], 1),
        "load_average": round(os.getloadavg()[0], 1),
        "processor": processor(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    main()
