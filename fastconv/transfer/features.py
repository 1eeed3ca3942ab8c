"""Tapping: the outputs of a network's layers for a whole data set, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastconv import data
from fastconv import nn as fnn
from fastconv._layers import RECTIFIERS, WEIGHTED, device_of, features, find_layer

# What belongs to the weighted layer before it: a layer's features are taken behind all of these.
_BELONGS = (*RECTIFIERS, nn.MaxPool2d, nn.AvgPool2d, fnn.SumPool2d, fnn.StochasticPool2d)
_BELONGS += (fnn.Maxout, nn.LocalResponseNorm, fnn.LocalContrastNorm, nn.BatchNorm2d)
_TARGETS, _META = "targets.npy", "meta.json"


class AllImages:
    """Every image of one or more data sets with the same classes, as one.

    Attributes:
        classes: class names in the order of the targets.
        targets: (N,) int64, the class index of every image.
    """

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.classes: list[str] = self.parts[0].classes
        self.targets = np.concatenate([np.asarray(part.targets, np.int64) for part in self.parts])
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Any, int] | None:
        index, *seed = key if isinstance(key, tuple) else (key,)
        part = int(np.searchsorted(self._ends, index, side="right"))
        index = int(index) - (int(self._ends[part - 1]) if part else 0)
        return self.parts[part][(index, *seed) if seed else index]

    def __repr__(self) -> str:
        return f"AllImages({len(self)} images, {len(self.classes)} classes)"

    @property
    def identity(self) -> str:
        """Changes when an image is added, replaced or renamed."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in self.parts:
            digest.update(repr(part).encode())
            if not hasattr(part, "path"):
                continue
            for index in range(len(part)):
                found = os.stat(part.path(index))
                digest.update(f"{part.path(index)} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def open_images(path: str | os.PathLike | None, transform: Callable | None) -> AllImages:
    """All images of a data set, whatever splits it has.

    Args:
        path: a folder of class folders; or anything that `fastconv.data.open_dataset` opens, of
            which both splits are taken. None: scikit-learn's digits.
        transform: from a Pillow image to the sample.

    Raises:
        fastconv.data.DatasetError: no such folder, no classes, no images.
    """
    has_splits = path is None or any(
        os.path.exists(os.path.join(path, name)) for name in (data.MANIFEST, "train")
    )
    if path is not None and not has_splits:
        return AllImages([data.ImageFolder(path, transform, strict=True)])
    first = data.open_dataset(path, "train", transform=transform, strict=True)
    second = data.open_dataset(path, "val", transform=transform, strict=True, classes=first.classes)
    return AllImages([first, second])


def numbered_layers(model: nn.Module) -> list[str]:
    """The layers as the papers count them: of each weighted layer, the last output that is its own.

    That is behind its rectifier, its pooling and its normalisation: in AlexNet pool1, pool2, relu3,
    relu4, pool5, relu6, relu7, fc8.
    """
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            names.append(name)
        elif isinstance(module, _BELONGS) and names:
            names[-1] = name
    return names


def parse_layers(model: nn.Module, text: str) -> dict[str, str]:
    """The layers that ``text`` asks for: what they are called to the user, and in the model.

    Args:
        text: numbers as in `numbered_layers`, counted from 1, ranges of them, and names, with
            commas between: "1-5,7" or "pool5,relu7".

    Raises:
        ValueError: a number or a name that the model does not have.
    """
    numbered = numbered_layers(model)
    chosen: dict[str, str] = {}
    for part in (part.strip() for part in text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            find_layer(model, part)
            chosen[part] = part
            continue
        for number in range(int(first), int(last or first) + 1):
            if not 1 <= number <= len(numbered):
                raise ValueError(
                    f"layers: the model has layers 1 to {len(numbered)} (got {part!r})"
                )
            chosen[str(number)] = numbered[number - 1]
    return chosen


def extract(
    model: nn.Module,
    images: AllImages,
    layers: Sequence[str],
    *,
    cache: str | os.PathLike | None = None,
    batch_size: int = 64,
    workers: int = 0,
    dtype: str = "float16",
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, np.ndarray]:
    """The outputs of layers for every image.

    Args:
        model: on the device that computes.
        images: gives what the model takes.
        layers: names of modules of the model.
        cache: folder in which features are kept and found again. What is found there was made by
            the same weights from the same files through the same transform; the rest is computed.
            None: nothing is kept, and all has to fit into memory.
        batch_size: images at once.
        workers: processes that read.
        dtype: "float16" or "float32", of what is kept.
        progress: called with the images done and in all.

    Returns:
        For each layer an array (images, features), flattened; memory-mapped and read-only where
        there is a cache.

    Raises:
        ValueError: an activation beyond float16's range, or an argument out of range.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"extract: dtype must be 'float16' or 'float32' (got dtype={dtype!r})")
    if batch_size < 1:
        raise ValueError(f"extract: batch_size must be at least 1 (got batch_size={batch_size})")
    layers = list(dict.fromkeys(layers))
    if cache is None:
        return _compute(model, images, layers, None, batch_size, workers, dtype, progress)
    folder = Path(cache) / _key(model, images, dtype)
    missing = [name for name in layers if not (folder / f"{name}.npy").is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{os.getpid()}.partial"
        partial.mkdir(exist_ok=True)
        try:
            _compute(model, images, missing, partial, batch_size, workers, dtype, progress)
            for name in missing:
                os.replace(partial / f"{name}.npy", folder / f"{name}.npy")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        meta = {"images": len(images), "classes": images.classes, "dtype": dtype}
        (folder / _META).write_text(json.dumps(meta, indent=2), encoding="utf-8")
        np.save(folder / _TARGETS, images.targets)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in layers}


def pixels(images: AllImages, size: int = 32) -> np.ndarray:
    """What no network is needed for: each image shrunk to ``size`` x ``size``, (images, features).

    Args:
        images: gives tensors (C, H, W).
    """
    rows = []
    for index in range(len(images)):
        sample = images[index]
        assert sample is not None  # strict images raise
        image = sample[0][None]
        if max(image.shape[2:]) > size:
            image = nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True)
        rows.append(image.flatten().numpy())
    return np.stack(rows)


def _compute(
    model: nn.Module,
    images: AllImages,
    layers: list[str],
    folder: Path | None,
    batch_size: int,
    workers: int,
    dtype: str,
    progress: Callable[[int, int], Any] | None,
) -> dict[str, np.ndarray]:
    device = device_of(model)
    arrays: dict[str, np.ndarray] = {}
    done = 0
    for batch, _, _ in data.build_loader(images, None, batch_size, workers=workers, device=device):
        found = features(model, batch.to(device), layers, _flat)
        for name, output in found.items():
            if name not in arrays:
                shape = (len(images), output.shape[1])
                arrays[name] = _new_array(folder, name, shape, dtype)
            with np.errstate(over="ignore"):  # said below, with the layer
                rows = output.numpy().astype(dtype)
            if not np.isfinite(rows).all():
                raise ValueError(
                    f"extract: {name} has activations beyond {dtype}'s range "
                    f"(got {float(output.abs().max()):g}); dtype='float32' holds them"
                )
            arrays[name][done : done + len(rows)] = rows
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    return arrays


def _flat(output: Tensor) -> Tensor:
    return output.detach().flatten(1).float().cpu()


def _new_array(folder: Path | None, name: str, shape: tuple[int, int], dtype: str) -> np.ndarray:
    if folder is None:
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def _key(model: nn.Module, images: AllImages, dtype: str) -> str:
    """A name for all that features depend on."""
    digest = hashlib.sha256(f"{dtype} {images.identity}".encode())
    digest.update(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in images.parts:
        digest.update(_transform_bytes(part.transform))
    return digest.hexdigest()[:24]


def _transform_bytes(transform: Any) -> bytes:
    """The transform's configuration and its tensors."""
    if transform is None:
        return b"none"
    text = repr(transform).encode()
    for step in getattr(transform, "transforms", [transform]):
        for value in vars(step).values():
            if isinstance(value, Tensor):
                text += value.detach().cpu().contiguous().numpy().tobytes()
    return text
