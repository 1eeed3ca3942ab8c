"""Readers of annotated pictures: Pascal VOC's XML files and COCO's JSON."""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastconv.detection.boxes import as_boxes

_VOC_ANNOTATIONS = ("annotations", "Annotations")
_VOC_IMAGES = ("images", "JPEGImages", "")
_BROKEN = (ValueError, OverflowError)  # what numbers raise that are none, or infinite
_SLACK = 1.0  # pixels that a box may reach beyond its picture; VOC counts from 1, others from 0


class AnnotationError(ValueError):
    """An annotation file that is broken or says what cannot be; the message names it."""


@dataclass(frozen=True)
class Annotated:
    """A picture and what is in it.

    Attributes:
        path: the image file.
        size: (height, width) in pixels.
        boxes: (N, 4), see `fastconv.detection.boxes`.
        labels: N class names.
        difficult: (N,) bool: boxes that a detector need not find, and is not blamed for finding
            (VOC's "difficult", COCO's "iscrowd").
    """

    path: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: list[str]
    difficult: Tensor


def read_annotations(path: str | os.PathLike) -> list[Annotated]:
    """Annotated pictures of a VOC-like folder or a COCO file, whichever ``path`` is.

    Raises:
        AnnotationError, FileNotFoundError: as `read_voc` and `read_coco`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such folder or file: {path}")
    return read_voc(path) if path.is_dir() else read_coco(path)


def read_voc(folder: str | os.PathLike) -> list[Annotated]:
    """The pictures of a folder with ``annotations/*.xml`` and ``images/`` (or VOC's own names).

    VOC's coordinates count from 1 and include the last pixel; they are converted.

    Returns:
        In the order of the files' names, numbers in them in numerical order.

    Raises:
        AnnotationError: a file that is no such XML, a box outside its picture or without inside,
            or a picture that is missing. Nothing is passed over.
    """
    folder = Path(folder)
    home = next((folder / n for n in _VOC_ANNOTATIONS if (folder / n).is_dir()), folder)
    files = sorted(home.glob("*.xml"), key=_natural)
    if not files:
        raise AnnotationError(f"{folder}: no annotations, which are files annotations/*.xml")
    return [_read_voc_file(file, folder) for file in files]


def read_coco(file: str | os.PathLike, images: str | os.PathLike | None = None) -> list[Annotated]:
    """The pictures of a COCO annotation file.

    Args:
        file: JSON with ``images``, ``annotations`` and ``categories``.
        images: folder of the pictures; None: ``images/`` beside the file, or the file's folder.

    Returns:
        In the file's order.

    Raises:
        AnnotationError: as `read_voc`.
    """
    file = Path(file)
    if images is None:
        images = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        found: dict[Any, list[tuple]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            left, top, width, height = (float(v) for v in entry["bbox"])
            box = (left, top, left + width, top + height)
            name = names[entry["category_id"]]
            found[entry["image_id"]].append((name, box, bool(entry.get("iscrowd", 0))))
        pictures = [
            (entry["id"], str(entry["file_name"]), (int(entry["height"]), int(entry["width"])))
            for entry in content["images"]
        ]
    except (*_BROKEN, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnnotationError(f"{file}: not COCO's JSON ({_brief(error)})") from None
    return [
        _checked(file, Path(images) / name, size, found[number]) for number, name, size in pictures
    ]


def _read_voc_file(file: Path, folder: Path) -> Annotated:
    try:
        root = ElementTree.parse(file).getroot()
        name = _text(root, "filename")
        high, wide = (int(float(_text(root, f"size/{side}"))) for side in ("height", "width"))
        objects = []
        for entry in root.iter("object"):
            left, top, right, bottom = (
                float(_text(entry, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            difficult = (entry.findtext("difficult") or "0").strip() == "1"
            objects.append((_text(entry, "name"), (left - 1, top - 1, right, bottom), difficult))
    except (ElementTree.ParseError, *_BROKEN) as error:
        raise AnnotationError(f"{file}: not VOC's XML ({_brief(error)})") from None
    image = next(
        (p for n in _VOC_IMAGES if _is_file(p := folder / n / name)),
        folder / _VOC_IMAGES[0] / name,
    )
    return _checked(file, image, (high, wide), objects)


def _checked(file: Path, image: Path, size: tuple[int, int], objects: Sequence[tuple]) -> Annotated:
    """The picture, once each of its boxes makes sense."""
    if not _is_file(image):
        raise AnnotationError(f"{file}: its picture is missing: {image}")
    height, width = size
    if height < 1 or width < 1:
        raise AnnotationError(f"{file}: a picture must have pixels (got {height}x{width})")
    for name, box, _ in objects:
        left, top, right, bottom = box
        inside = left >= -_SLACK and top >= -_SLACK
        inside &= right <= width + _SLACK and bottom <= height + _SLACK
        if not (all(map(math.isfinite, box)) and left < right and top < bottom and inside):
            shown = ", ".join(f"{v:g}" for v in box)
            raise AnnotationError(
                f"{file}: the box of {name} must lie in its picture of {width}x{height} and have "
                f"an inside (got left, top, right, bottom = {shown})"
            )
    boxes = as_boxes([box for _, box, _ in objects])
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    return Annotated(
        path=image,
        size=size,
        boxes=torch.minimum(boxes.clamp(min=0), limit),
        labels=[name for name, _, _ in objects],
        difficult=torch.tensor([difficult for *_, difficult in objects], dtype=torch.bool),
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a zero in it
        return False


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"it has no {path}")
    return text.strip()


def _natural(file: Path) -> list:
    """Sorts picture-2 before picture-10."""
    parts = "".join(c if c.isdigit() else f" {c} " for c in file.stem).split()
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _brief(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return " ".join(str(error).split())[:160]
