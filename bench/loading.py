"""Images a second that one core prepares for training: folder, JPEG shards, raw shards.

    python bench/loading.py DATA --output bench/results/loading.csv

DATA is an image folder. With --photograph 500x375 its training pictures are first scaled to that
size and saved as JPEG (quality 90), as a stand-in for ImageNet's, whose mean is about that. One
process with one thread then takes the classic recipe's training samples of 224x224 in shuffled
order, and does the arithmetic behind the crop in three ways: step by step in NumPy, in one pass
(as training does), or not at all, which leaves it to the device. Each source is gone through
`--rounds` times, after once to warm the page cache, in turn with the others, and the median counts.
Before, the samples are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from fastconv import data
from fastconv.data import EpochSampler, PackOptions, pack
from fastconv.data._picture import Picture
from fastconv.data.device import HostSteps

WAYS = ("NumPy", "one pass", "the device's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--photograph", help="WIDTHxHEIGHT of the stand-in's pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="CSV file to append to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_photographs(Path(args.data), root / "folder", args.images, args.photograph)
        pack(root / "folder", root / "jpeg", PackOptions(256))
        pack(root / "folder", root / "jpeg-square", PackOptions(256, True))
        pack(root / "folder", root / "raw-square", PackOptions(256, True, "raw"))
        sources = ("folder", "jpeg", "jpeg-square", "raw-square")
        datasets = {name: open_train(root / name, root / "folder") for name in sources}
        compare(datasets)
        rates = measure(datasets, args.rounds)
        rows = [
            row(name, way, datasets[name], root / name, rates[name, way], args)
            for way in WAYS
            for name in sources
        ]
    columns = list(rows[0])
    writer = csv.DictWriter(sys.stdout, columns)
    writer.writeheader()
    writer.writerows(rows)
    if args.output:
        new = not Path(args.output).exists()
        with open(args.output, "a", newline="") as f:
            writer = csv.DictWriter(f, columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)


def copy_photographs(source: Path, target: Path, count: int, size: str | None) -> None:
    """`count` training pictures of all classes, and one of each class for the split val."""
    dataset = data.open_dataset(source, "train")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    first = {dataset.targets[i]: i for i in reversed(order)}
    for split, indices in (("train", {*order[:count], *first.values()}), ("val", first.values())):
        for index in indices:
            path = dataset.path(index)
            folder = target / split / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            if size is None:
                (folder / path.name).write_bytes(path.read_bytes())
            else:
                width, height = map(int, size.split("x"))
                picture = data.open_image(path).resize((width, height), Image.Resampling.BICUBIC)
                picture.save((folder / path.name).with_suffix(".jpg"), quality=90)


def open_train(root: Path, measured: Path):
    """The training split with the classic recipe; one set of statistics for all sources."""
    dataset = data.open_dataset(root, "train")
    if not hasattr(open_train, "statistics"):
        open_train.statistics = data.compute_statistics(data.open_dataset(measured, "train"), 256)
    dataset.transform = data.recipe("classic", (3, 224, 224), open_train.statistics, train=True)
    return dataset


def by_name(dataset) -> dict[str, int]:
    return {dataset.path(i).name: i for i in range(len(dataset))}


def compare(datasets: dict) -> None:
    """The raw squares give the folder's samples but for rounding, the JPEGs nearly; NumPy all."""
    places = {name: by_name(dataset) for name, dataset in datasets.items()}
    for file in list(places["folder"])[:20]:
        images = {name: datasets[name][places[name][file], 1][0] for name in datasets}
        for name, limit in (("raw-square", 0.002), ("jpeg-square", 0.1), ("jpeg", 0.1)):
            difference = (images[name] - images["folder"]).abs().mean().item()
            assert difference < limit, (name, file, difference)
        for name, image in images.items():
            with working(datasets[name], "NumPy"):
                assert torch.equal(datasets[name][places[name][file], 1][0], image)


@contextlib.contextmanager
def working(dataset, way: str):
    """The dataset's samples are made in one of the WAYS."""
    whole = dataset.transform
    with contextlib.ExitStack() as stack:
        if way == "NumPy":
            stack.enter_context(mock.patch.object(Picture, "parts", lambda picture: None))
        elif way == "the device's":
            dataset.transform = HostSteps(whole)
        try:
            yield
        finally:
            dataset.transform = whole


def measure(datasets: dict, rounds: int) -> dict[tuple[str, str], list[float]]:
    rates: dict[tuple[str, str], list[float]] = {(n, way): [] for n in datasets for way in WAYS}
    for turn in range(rounds + 1):
        for name, way in rates:
            dataset = datasets[name]
            sampler = EpochSampler(len(dataset), seed=0)
            sampler.set_epoch(turn)
            with working(dataset, way):
                began = time.process_time()  # the core's time for us, whoever else is there
                for key in sampler:
                    dataset[key]
                spent = time.process_time() - began
            if turn:
                rates[name, way].append(len(dataset) / spent)
    return rates


def row(name: str, way: str, dataset, root: Path, rates: list[float], args) -> dict:
    files = root.glob("train/**/*.jpg" if name == "folder" else "train/*.tar")
    if name == "folder" and not args.photograph:
        files = (dataset.path(i) for i in range(len(dataset)))
    return {
        "source": name,
        "last_pass": way,
        "photographs": args.photograph or "as they are",
        "images": len(dataset),
        "bytes_per_image": round(sum(f.stat().st_size for f in files) / len(dataset)),
        "images_per_cpu_second": round(statistics.median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "processor": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str:
    process = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return process.stdout.strip()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
