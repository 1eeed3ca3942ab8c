"""Region proposals: boxes that may hold something, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastconv.detection.boxes import as_boxes, iou

PROPOSERS = ("selective", "grid")


def selective_search(
    picture: np.ndarray, *, most: int = 2000, quality: bool = False, side: int = 320
) -> Tensor:
    """Selective search (Uijlings et al., IJCV 2013), by OpenCV.

    Args:
        picture: (H, W, 3), uint8, RGB.
        most: proposals at most. They come in an order in which large regions tend to be early:
            the rank by size times a random number, as in the paper, from a fixed seed.
        quality: more colour spaces and segmentations: better and several times slower.
        side: pixels of the shorter side at which it searches; smaller pictures are not enlarged.

    Returns:
        (N, 4) boxes in the picture's pixels; the same for the same picture.

    Raises:
        ImportError: OpenCV with its contributed modules is not installed.
    """
    cv2 = _opencv()
    height, width = picture.shape[:2]
    factor = min(1.0, side / min(height, width))
    small = np.ascontiguousarray(picture[:, :, ::-1])
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(small)
    if quality:
        search.switchToSelectiveSearchQuality()
    else:
        search.switchToSelectiveSearchFast()
    # OpenCV's own order is drawn from C's rand(), which differs from call to call.
    found = np.unique(np.asarray(search.process(), dtype=np.float32).reshape(-1, 4), axis=0)
    rank = np.argsort(np.argsort(-found[:, 2] * found[:, 3], kind="stable")) + 1
    order = np.argsort(rank * np.random.default_rng(0).random(len(rank)), kind="stable")
    found = found[order[:most]]
    boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    scale = np.array([width / small.shape[1], height / small.shape[0]] * 2, np.float32)
    return as_boxes(boxes * scale)


def grid_boxes(
    picture: np.ndarray,
    *,
    most: int = 2000,
    sizes: Sequence[float] = (1.0, 0.7, 0.5, 0.35, 0.25),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> Tensor:
    """Boxes of several sizes and shapes, each half overlapping the next: needs no other library.

    Args:
        picture: (H, W, 3).
        most: boxes at most; the largest come first.
        sizes: square root of a box's share of the picture's area.
        ratios: width / height of a box, as a multiple of the picture's own.

    Returns:
        (N, 4).
    """
    height, width = picture.shape[:2]
    boxes = [(0.0, 0.0, float(width), float(height))]
    for size in sizes:
        for ratio in ratios:
            w, h = width * size * ratio**0.5, height * size / ratio**0.5
            if w > width or h > height or (w, h) == (width, height):
                continue
            columns, rows = (
                int(np.ceil(2 * (a - b) / b)) + 1 for a, b in ((width, w), (height, h))
            )
            for top in np.linspace(0, height - h, rows):
                for left in np.linspace(0, width - w, columns):
                    boxes.append((left, top, left + w, top + h))
    return as_boxes(boxes[:most])


def proposer(name: str, most: int) -> Callable[[np.ndarray], Tensor]:
    """The function from a picture to at most ``most`` boxes that ``name`` stands for."""
    if name not in PROPOSERS:
        raise ValueError(f"proposals: must be one of {', '.join(PROPOSERS)} (got {name!r})")
    function = selective_search if name == "selective" else grid_boxes
    return lambda picture: function(picture, most=most)


def recall(proposals: Tensor, objects: Tensor, threshold: float = 0.5) -> float:
    """Share of the objects (M, 4) that some proposal overlaps by at least ``threshold`` (IoU)."""
    if not len(objects):
        return float("nan")
    if not len(proposals):
        return 0.0
    return (iou(proposals, objects).amax(0) >= threshold).to(torch.float64).mean().item()


def _opencv():
    try:
        import cv2

        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018  it may be left out
    except (ImportError, AttributeError):
        raise ImportError(
            "selective search needs OpenCV with its contributed modules: "
            'pip install "fastconv[detection]"'
            ", or take the proposals 'grid'"
        ) from None
    return cv2
