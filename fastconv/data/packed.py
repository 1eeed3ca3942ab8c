"""Reading a pack, see `fastconv.data.packing`: any picture in any order, by the shards' indices."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastconv.data.folder import DatasetError, check_classes
from fastconv.data.images import ImageError, open_image
from fastconv.data.loading import sample_key
from fastconv.data.packing import read_manifest, shard_path
from fastconv.data.transforms import apply_transform, decode_size

_LOG = logging.getLogger("fastconv.data")


class PackedImages:
    """The pictures of a packed split, in the pack's order; keys and samples as in `ImageFolder`.

    Args:
        root: the folder that `fastconv pack` wrote.
        split: "train" or "val".
        transform, strict, classes: as for `ImageFolder`; raw pictures reach the transform as uint8
            arrays (H, W, 3).

    Raises:
        DatasetError: not a pack, an unfinished or damaged one, or of other classes.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        transform: Callable | None = None,
        *,
        strict: bool = False,
        classes: Sequence[str] | None = None,
    ):
        root = Path(root)
        manifest = read_manifest(root)
        if split not in manifest["splits"]:
            raise ValueError(f"split must be train or val (got {split!r})")
        packed = manifest["classes"]
        if classes is not None:
            check_classes(root, packed, list(classes))
        self.root, self.split = root, split
        self.transform, self.strict = transform, strict
        self.classes: list[str] = packed if classes is None else list(classes)
        self.encoding: str = manifest["options"]["encoding"]
        self._shards = [
            shard_path(root / split, split, number)
            for number in range(manifest["splits"][split]["shards"])
        ]
        indices = [_read_index(path) for path in self._shards]

        def column(name: str, dtype) -> np.ndarray:
            return np.array([value for index in indices for value in index[name]], dtype)

        self._shard = np.repeat(np.arange(len(indices)), [len(i["sizes"]) for i in indices])
        self._offsets, self._sizes = column("offsets", np.int64), column("sizes", np.int64)
        self._shapes = column("shapes", np.int32)
        self._names = np.array([os.fsencode(n) for index in indices for n in index["names"]])
        place = np.array([self.classes.index(name) for name in packed])
        self._targets = place[column("targets", np.int64)]
        # Shared memory, so that what a worker finds is known here and in the other workers.
        self._unreadable = torch.zeros(len(self._sizes), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, key: int | tuple[int, int]):
        index, generator = sample_key(key, len(self))
        try:
            picture = self._picture(index)
        except ImageError as error:
            if self.strict:
                raise
            if not self._unreadable[index]:
                self._unreadable[index] = True
                _LOG.warning("skipped: %s", error)
            return None
        return apply_transform(self.transform, picture, generator), int(self._targets[index])

    def __repr__(self) -> str:
        return (
            f"PackedImages({str(self.root)!r}, {self.split!r}: {len(self)} images, "
            f"{len(self.classes)} classes)"
        )

    @property
    def targets(self) -> list[int]:
        """The class index of every image."""
        return self._targets.tolist()

    @property
    def unreadable(self) -> list[Path]:
        """The images that could not be decoded so far, in whatever process."""
        return [self.path(index) for index in self._unreadable.nonzero().flatten().tolist()]

    def path(self, index: int) -> Path:
        """The shard of an image and, below it, the file that the image was packed from."""
        return self._shards[self._shard[index]] / os.fsdecode(bytes(self._names[index]))

    def _picture(self, index: int):
        with open(self._shards[self._shard[index]], "rb", buffering=0) as shard:
            shard.seek(self._offsets[index])
            data = shard.read(int(self._sizes[index]))
        if self.encoding == "raw":
            height, width = self._shapes[index]
            pixels = np.frombuffer(data, np.uint8)[-height * width * 3 :]
            if not data.startswith(b"\x93NUMPY") or pixels.size != height * width * 3:
                raise ImageError(f"{self.path(index)}: not the picture that was packed")
            return pixels.reshape(height, width, 3)
        stream = io.BytesIO(data)
        stream.name = str(self.path(index))
        return open_image(stream, shortest_side=decode_size(self.transform))


def _read_index(path: Path) -> dict:
    index = path.with_suffix(".json")
    if not (path.is_file() and index.is_file()):
        raise DatasetError(f"{path}: missing; the pack is not finished: pack again to go on")
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        size = found["bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{index}: damaged ({error})") from None
    if path.stat().st_size != size:
        raise DatasetError(
            f"{path}: has {path.stat().st_size} bytes, packed were {size}; delete it, pack again"
        )
    return found
