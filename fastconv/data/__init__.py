"""Data: decoding, datasets, transforms, statistics and loading.

A dataset gives ``(sample, target)`` for a key, a transform makes the network's input of an image, a
recipe puts the papers' transforms together from the data's statistics, a loader makes batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from fastconv.data import transforms
from fastconv.data.device import suits_device
from fastconv.data.digits import Digits
from fastconv.data.folder import DatasetError, ImageFolder, open_split
from fastconv.data.images import ImageError, open_image
from fastconv.data.loading import EpochSampler, build_loader, collate
from fastconv.data.packed import PackedImages
from fastconv.data.packing import MANIFEST, PackOptions, pack
from fastconv.data.recipes import RECIPES, classic_size, recipe, recipe_size
from fastconv.data.statistics import compute_statistics
from fastconv.data.subset import Subset

__all__ = [
    "RECIPES",
    "DatasetError",
    "Digits",
    "EpochSampler",
    "ImageError",
    "ImageFolder",
    "PackOptions",
    "PackedImages",
    "Subset",
    "build_loader",
    "classic_size",
    "collate",
    "compute_statistics",
    "open_dataset",
    "open_image",
    "pack",
    "recipe",
    "recipe_size",
    "suits_device",
    "transforms",
]


def open_dataset(
    path: str | os.PathLike | None,
    split: str,
    *,
    transform: Callable | None = None,
    strict: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageFolder | PackedImages | Digits:
    """Open the split ``"train"`` or ``"val"`` of a data set.

    Args:
        path: a folder with ``train/`` and ``val/`` (or ``validation/``, ``valid/``, ``test/``), in
            each a folder a class; or what `fastconv pack` made of such a folder; None for
            scikit-learn's handwritten digits.
        split: "train" or "val".
        transform: see the datasets, `ImageFolder` and `Digits`.
        strict: an image that cannot be decoded raises `ImageError` instead of being skipped.
        classes: the class names a run was trained with; the data must have exactly these, and the
            targets follow their order, whatever the order of the folders.

    Raises:
        DatasetError: the folder, the split, its classes or its images are missing, or the classes
            are not the run's. The message says which.
    """
    if path is None:
        return Digits(split, transform, classes=classes)
    if os.path.isfile(os.path.join(path, MANIFEST)):
        return PackedImages(path, split, transform, strict=strict, classes=classes)
    return open_split(path, split, transform=transform, strict=strict, classes=classes)
