"""Packing an image folder: every picture resized once, in tar shards that are read in long strokes.

The shards are WebDataset's: plain tar files in which ``00000042.jpg`` (or ``.npy``, raw uint8
pixels) is followed by ``00000042.cls``, its class index. The pictures stand in an order drawn once,
so that every shard has pictures of all classes. Beside each shard a JSON file of the same name has
its checksum and where each picture begins, by which training reads any picture in any order.

| file | holds |
|---|---|
| ``pack.json`` | format, classes, sizes, how many pictures and shards each split has |
| ``train/train-000000.tar``, ``.json`` | a shard and its index |
| ``classes.tsv`` | the source's readable names, if it has them |

A shard whose index is there is whole: the index is written last, and both are written atomically.
Packing again therefore goes on where it was stopped.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastconv._files import atomic_open, atomic_path, remove_leftovers
from fastconv._version import __version__
from fastconv.data.folder import DatasetError, ImageFolder, open_split
from fastconv.data.transforms import CenterCrop, Compose, Resize

FORMAT = 1
MANIFEST = "pack.json"
NAMES = "classes.tsv"
SPLITS = ("train", "val")
ENCODINGS = {"jpeg": "jpg", "raw": "npy"}


@dataclass(frozen=True)
class PackOptions:
    """How pictures are packed.

    Attributes:
        size: length of the shortest side in pixels; smaller pictures grow to it.
        square: cut to the centre size x size, all that the classic recipe looks at.
        encoding: "jpeg", or "raw" uint8 pixels, about five times as large and without decoding.
        quality: of JPEG, 1 to 100.
        shard_images: pictures in a shard.

    Raises:
        ValueError: one of them is out of its range.
    """

    size: int = 256
    square: bool = False
    encoding: str = "jpeg"
    quality: int = 95
    shard_images: int = 1000

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"pack: encoding must be jpeg or raw (got {self.encoding!r})")
        for name, low, high in (
            ("size", 1, 2**15),
            ("quality", 1, 100),
            ("shard_images", 1, 10**6),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"pack: {name} must be from {low} to {high} (got {value})")


def pack(
    source: str | os.PathLike,
    target: str | os.PathLike,
    options: PackOptions | None = None,
    *,
    workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Pack the splits of an image folder, or go on with what was begun.

    Args:
        source: a folder with train/ and val/, see `open_dataset`.
        target: the folder to write; absent, empty, or a pack begun of the same source and options.
        options: how.
        workers: processes; 0 packs in this one.
        progress: called as ``progress(split, done, total)``, in shards.

    Returns:
        The manifest, and under "skipped" the pictures that could not be read.

    Raises:
        DatasetError: the source is no image folder, or the target holds something else.
        WriteError: the disk is full. What is packed stays, and packing can go on.
    """
    options = options or PackOptions()
    source, target = Path(source), Path(target)
    datasets = {split: open_split(source, split) for split in SPLITS}
    manifest = _manifest(datasets, options)
    _begin(source, target, manifest)
    skipped: list[str] = []
    for split, dataset in datasets.items():
        job = _Job(dataset, split, target / split, options)
        waiting = [number for number in range(job.shards) if not job.is_done(number)]
        done = job.shards - len(waiting)
        for _ in _run(job, waiting, workers):
            done += 1
            if progress is not None:
                progress(split, done, job.shards)
        skipped += [name for number in range(job.shards) for name in job.index(number)["skipped"]]
    return {**manifest, "skipped": skipped}


def verify(
    target: str | os.PathLike, progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Compare every shard of a pack with its checksum.

    Returns:
        What is wrong, a line each: missing, unfinished or changed shards.

    Raises:
        DatasetError: not a pack.
    """
    target = Path(target)
    manifest = read_manifest(target)
    problems = []
    for split, described in manifest["splits"].items():
        for number in range(described["shards"]):
            path = shard_path(target / split, split, number)
            index = path.with_suffix(".json")
            if not (path.is_file() and index.is_file()):
                problems.append(f"{path}: missing; pack again to finish")
            elif checksum(path) != json.loads(index.read_text())["sha256"]:
                problems.append(f"{path}: changed since it was packed; delete it and pack again")
            if progress is not None:
                progress(split, number + 1, described["shards"])
    return problems


def read_manifest(target: Path) -> dict[str, Any]:
    """The contents of pack.json.

    Raises:
        DatasetError: not there, damaged or of another format.
    """
    path = target / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except FileNotFoundError:
        raise DatasetError(f"{target}: not a pack (it has no {MANIFEST})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: damaged ({error})") from None
    if found != FORMAT:
        raise DatasetError(f"{path}: format {found}, this fastconv reads {FORMAT}")
    return manifest


def shard_path(folder: Path, split: str, number: int) -> Path:
    """The tar file of a shard; its index has the suffix .json."""
    return folder / f"{split}-{number:06}.tar"


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _manifest(datasets: dict[str, ImageFolder], options: PackOptions) -> dict[str, Any]:
    splits = {}
    for split, dataset in datasets.items():
        names = hashlib.sha256()
        for index in range(len(dataset)):
            names.update(os.fsencode(dataset.path(index).relative_to(dataset.root)) + b"\0")
        splits[split] = {
            "images": len(dataset),
            "shards": -(-len(dataset) // options.shard_images),
            "names_sha256": names.hexdigest(),
        }
    classes = datasets["train"].classes
    if datasets["val"].classes != classes:
        raise DatasetError("train and val must have the same class folders")
    return {"format": FORMAT, "options": asdict(options), "classes": classes, "splits": splits}


def _begin(source: Path, target: Path, manifest: dict[str, Any]) -> None:
    if (target / MANIFEST).is_file():
        found = read_manifest(target)
        for key, value in manifest.items():
            if found[key] != value:
                raise DatasetError(
                    f"{target}: holds a pack of other {key} (there {found[key]}, here {value}); "
                    "give another folder"
                )
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{target}: not empty and not a pack; give another folder")
    for split in SPLITS:
        (target / split).mkdir(parents=True, exist_ok=True)
        remove_leftovers(target / split)
    if (source / NAMES).is_file():
        shutil.copyfile(source / NAMES, target / NAMES)
    with atomic_open(target / MANIFEST) as f:
        text = json.dumps({"fastconv": __version__, **manifest}, ensure_ascii=False, indent=1)
        f.write(text.encode())


class _Job:
    """The shards of one split."""

    def __init__(self, dataset: ImageFolder, split: str, folder: Path, options: PackOptions):
        steps = [Resize(options.size), *([CenterCrop(options.size)] if options.square else [])]
        self.dataset = copy.copy(dataset)
        self.dataset.transform = Compose(steps)
        self.split, self.folder, self.options = split, folder, options
        # One order for good: a shard is then a sample of all classes.
        generator = torch.Generator().manual_seed(0)
        self.order = torch.randperm(len(dataset), generator=generator).numpy()
        self.shards = -(-len(dataset) // options.shard_images)

    def path(self, number: int) -> Path:
        return shard_path(self.folder, self.split, number)

    def index(self, number: int) -> dict[str, Any]:
        return json.loads(self.path(number).with_suffix(".json").read_text(encoding="utf-8"))

    def is_done(self, number: int) -> bool:
        path = self.path(number)
        if not (path.is_file() and path.with_suffix(".json").is_file()):
            return False
        return path.stat().st_size == self.index(number)["bytes"]

    def write(self, number: int) -> None:
        first = number * self.options.shard_images
        indices = self.order[first : first + self.options.shard_images].tolist()
        found: dict[str, list] = {k: [] for k in ("offsets", "sizes", "shapes", "targets", "names")}
        skipped = []
        path = self.path(number)
        with atomic_path(path) as temporary:
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                for place, index in enumerate(indices, first):
                    name = str(self.dataset.path(index).relative_to(self.dataset.root))
                    if (sample := self.dataset[index]) is None:
                        skipped.append(name)
                        continue
                    picture, target = sample
                    data = _encoded(picture, self.options)
                    suffix = ENCODINGS[self.options.encoding]
                    found["offsets"].append(_add(tar, f"{place:08}.{suffix}", data))
                    _add(tar, f"{place:08}.cls", str(target).encode())
                    found["sizes"].append(len(data))
                    found["shapes"].append(picture.size[::-1])
                    found["targets"].append(target)
                    found["names"].append(name)
            digest, size = checksum(temporary), temporary.stat().st_size
        index = {"sha256": digest, "bytes": size, "skipped": skipped, **found}
        with atomic_open(path.with_suffix(".json")) as f:
            f.write(json.dumps(index, ensure_ascii=False).encode())


def _encoded(picture: Any, options: PackOptions) -> bytes:
    stream = io.BytesIO()
    if options.encoding == "raw":
        np.save(stream, np.asarray(picture))
    else:
        picture.save(stream, "JPEG", quality=options.quality)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; where its data begin in the file."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    begin = tar.offset + tarfile.BLOCKSIZE  # behind the header, a block in this format
    tar.addfile(member, io.BytesIO(data))
    return begin


_job: _Job | None = None  # a worker process's


def _run(job: _Job, numbers: list[int], workers: int) -> Iterator[int]:
    if workers == 0 or len(numbers) < 2:
        for number in numbers:
            job.write(number)
            yield number
        return
    context = torch.multiprocessing.get_context()
    with context.Pool(min(workers, len(numbers)), _start_worker, (job,)) as pool:
        yield from pool.imap_unordered(_write_in_worker, numbers)


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the pool


def _write_in_worker(number: int) -> int:
    assert _job is not None  # _start_worker's
    _job.write(number)
    return number
