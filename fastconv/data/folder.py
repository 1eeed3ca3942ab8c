"""Image folders: one folder a split, in it one folder a class, in it the images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fastconv.data.images import ImageError, open_image
from fastconv.data.loading import sample_key
from fastconv.data.transforms import apply_transform, decode_size

_LOG = logging.getLogger("fastconv.data")
_EXTENSIONS = {
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
# What the folder of a split may be called; the first that exists is taken.
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid", "test")}


class DatasetError(ValueError):
    """A data folder that is not what it should be. The message names the folder and the rule."""


class ImageFolder:
    """The images below a folder of class folders, in a fixed order.

    ``dataset[index]`` gives ``(sample, target)``, the transform drawing from torch's default
    generator if it is random. ``dataset[index, seed]`` draws from a generator of that seed alone,
    so the sample does not depend on the process or the order in which it is loaded. An image that
    cannot be decoded gives None; it is logged once, with its name, and counted in `unreadable`.

    Args:
        root: the folder of class folders. Class folders are searched recursively; names that begin
            with a dot are passed over.
        transform: from an RGB Pillow image to the sample; None leaves the Pillow image.
        strict: raise `ImageError` instead of giving None.
        classes: the class names in the order of their targets, as a run stored them. They must be
            the folders' names, all of them. Default: the folders' names, sorted.

    Raises:
        DatasetError: no such folder, no class folders, classes that differ from ``classes``, or a
            class without images.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        *,
        strict: bool = False,
        classes: Sequence[str] | None = None,
    ):
        self.root = Path(root)
        self.transform = transform
        self.strict = strict
        folders = _class_folders(self.root)
        if classes is not None:
            check_classes(self.root, folders, list(classes))
        self.classes: list[str] = folders if classes is None else list(classes)
        names, targets = _list_images(self.root, self.classes)
        # Arrays, not lists: touching a Python object writes its reference count, and so every
        # forked worker would by and by copy a list of a million names.
        self._names = np.array([os.fsencode(name) for name in names])
        self._targets = np.array(targets)
        # Shared memory, so that what a worker finds is known here and in the other workers.
        self._unreadable = torch.zeros(len(names), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: int | tuple[int, int]):
        index, generator = sample_key(key, len(self))
        try:
            image = open_image(self.path(index), shortest_side=decode_size(self.transform))
        except (ImageError, FileNotFoundError) as error:
            # A picture may go away under way; where all are gone, nothing may be passed over.
            if self.strict or not self.root.is_dir():
                raise
            if not self._unreadable[index]:
                self._unreadable[index] = True
                _LOG.warning("skipped: %s", error)
            return None
        return apply_transform(self.transform, image, generator), int(self._targets[index])

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.root)!r}: {len(self)} images, {len(self.classes)} classes)"

    @property
    def targets(self) -> list[int]:
        """The class index of every image."""
        return self._targets.tolist()

    @property
    def unreadable(self) -> list[Path]:
        """The images that could not be decoded so far, in whatever process."""
        return [self.path(index) for index in self._unreadable.nonzero().flatten().tolist()]

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(bytes(self._names[index]))


def open_split(root: str | os.PathLike, split: str, **options) -> ImageFolder:
    """Open the split ``"train"`` or ``"val"`` of a data folder; ``options`` as in `ImageFolder`.

    ``train`` is the folder ``train``; ``val`` is the first there is of ``val``, ``validation``,
    ``valid`` and ``test``.

    Raises:
        DatasetError: no such folder or no such split, and as `ImageFolder`.
    """
    root = Path(root)
    if split not in _SPLIT_FOLDERS:
        raise ValueError(f"split must be train or val (got {split!r})")
    _check_folder(root)
    for name in _SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return ImageFolder(root / name, **options)
    wanted = " or ".join(f"{name}/" for name in _SPLIT_FOLDERS[split])
    every_name = [name for names in _SPLIT_FOLDERS.values() for name in names]
    if root.name in every_name:
        hint = f"{root.name}/ looks like a split itself: give the folder above it"
    else:
        found = _subfolders(root)
        hint = f"found {_listed(found)}" if found else "found no folders"
    raise DatasetError(
        f"{root}: no {split} split, which is a folder {wanted} of class folders; {hint}"
    )


def _class_folders(root: Path) -> list[str]:
    _check_folder(root)
    folders = _subfolders(root)
    if not folders:
        raise DatasetError(f"{root}: no class folders; each class needs a folder of its images")
    return folders


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        state = "not a folder" if root.exists() else "no such folder"
        raise DatasetError(f"{root}: {state}")


def check_classes(root: Path, folders: list[str], classes: list[str]) -> None:
    """Raise DatasetError where `classes` (a run's) are not the folders', naming the difference."""
    if len(set(classes)) < len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise DatasetError(f"classes must be distinct (got twice: {_listed(twice)})")
    missing = [name for name in classes if name not in set(folders)]
    extra = [name for name in folders if name not in set(classes)]
    if missing or extra:
        parts = [f"missing {_listed(missing)}"] if missing else []
        parts += [f"unknown {_listed(extra)}"] if extra else []
        raise DatasetError(f"{root}: the class folders are not the run's: {'; '.join(parts)}")


def _list_images(root: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    names: list[str] = []
    targets: list[int] = []
    empty = []
    for target, name in enumerate(classes):
        found = sorted(_image_files(root, name))
        names += found
        targets += [target] * len(found)
        if not found:
            empty.append(name)
    if not names:
        raise DatasetError(f"{root}: no images in its class folders {_listed(empty)}")
    if empty:
        raise DatasetError(f"{root}: no images in class folders {_listed(empty)}")
    return names, targets


def _image_files(root: Path, folder: str) -> Iterator[str]:
    """Paths, relative to root, of the images below root/folder."""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.startswith("."):  # .DS_Store, ._photo.jpg, .ipynb_checkpoints
                continue
            if entry.is_dir():
                yield from _image_files(root, path)
            elif os.path.splitext(entry.name)[1].lower() in _EXTENSIONS:
                yield path


def _subfolders(root: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
