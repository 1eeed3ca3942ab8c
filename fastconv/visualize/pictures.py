"""Pictures as arrays: (H, W, 3) or (H, W) of uint8, from tensors, in grids, into PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastconv._files import atomic_path

GREY = 128


def signed_picture(x, limit: float | None = None) -> np.ndarray:
    """Values around 0 as a picture: 0 is mid-grey, positive is brighter, negative is darker.

    Args:
        x: (C, H, W). Three channels are red, green and blue; one is grey; of any other number the
            mean is shown.
        limit: the magnitude that becomes black or white; None: the 99.5th percentile of the
            magnitudes, so that single pixels do not take the contrast from all others.

    Returns:
        (H, W, 3), uint8.
    """
    x = _array(x)
    if limit is None:
        limit = float(np.percentile(np.abs(x), 99.5)) if x.size else 0.0
        limit = limit or float(np.abs(x).max(initial=0.0))
    if not limit > 0:
        return np.full((*x.shape[1:], 3), GREY, np.uint8)
    return _rgb(np.rint(GREY + x / limit * 127.5).clip(0, 255))


def pixel_picture(x) -> np.ndarray:
    """Pixels (C, H, W) in [0, 1] as a picture (H, W, 3), uint8; channels as in `signed_picture`."""
    return _rgb(np.rint(_array(x) * 255).clip(0, 255))


def map_picture(x, limit: float | None = None, *, signed: bool = False) -> np.ndarray:
    """Activations (H, W) as a grey picture (H, W), uint8: 0 and below black, `limit` white.

    ``limit`` None: the largest magnitude. ``signed``: 0 is mid-grey and ``-limit`` is black.
    """
    x = np.nan_to_num(np.asarray(_plain(x), np.float64))
    limit = float((np.abs(x) if signed else x).max(initial=0.0)) if limit is None else limit
    if signed:
        return signed_picture(x[None], limit)[:, :, 0]
    return np.rint((x / limit if limit > 0 else x * 0).clip(0, 1) * 255).astype(np.uint8)


def grid(
    pictures: Sequence[np.ndarray], columns: int | None = None, gap: int = 1, fill: int = 255
) -> np.ndarray:
    """Pictures of one size side by side, row by row.

    Args:
        columns: pictures in a row; None: as many as make the whole about square.
        gap: pixels between them, of the grey level ``fill``.
    """
    if not len(pictures):
        raise ValueError("grid: there must be at least one picture (got none)")
    first = pictures[0]
    for picture in pictures:
        if picture.shape != first.shape:
            raise ValueError(
                f"grid: pictures must have one size (got {picture.shape} and {first.shape})"
            )
    height, width = first.shape[:2]
    if columns is None:
        columns = max(1, round((len(pictures) * (height + gap) / (width + gap)) ** 0.5))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *first.shape[2:])
    whole = np.full(shape, fill, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        whole[top : top + height, left : left + width] = picture
    return whole


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """Each pixel repeated so often that the shorter side is at least about ``side`` pixels."""
    factor = max(1, round(side / min(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def save(picture: np.ndarray, path: str | Path) -> None:
    """Write a picture as PNG."""
    with atomic_path(Path(path)) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def _array(x) -> np.ndarray:
    x = np.asarray(_plain(x), np.float64)
    if x.ndim != 3:
        raise ValueError(f"picture: must have shape (C, H, W) (got {x.shape})")
    return x if len(x) in (1, 3) else x.mean(0, keepdims=True)


def _plain(x):
    return x.detach().cpu().float().numpy() if hasattr(x, "detach") else x


def _rgb(x: np.ndarray) -> np.ndarray:
    x = np.nan_to_num(x).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(x, (*x.shape[:2], 3)))
