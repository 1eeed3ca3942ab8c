"""Decoding: whatever file a photograph comes in, an upright 8-bit RGB image comes out."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np
from PIL import Image

# The EXIF orientation tag, and what turns each of its values upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose mode "I" holds 16-bit values in Pillow; elsewhere it holds 32-bit ones.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


class ImageError(ValueError):
    """An image file that cannot be decoded. The message names the file and the reason."""


def open_image(
    file: str | os.PathLike | BinaryIO, *, shortest_side: int | None = None
) -> Image.Image:
    """Decode an image into an upright Pillow image of mode ``RGB``.

    The EXIF orientation is applied. Grey and palette images are expanded, CMYK is converted,
    16-bit channels keep their high byte, transparent pixels are laid over white, and of an
    animation the first frame is taken. Colour profiles are ignored.

    Args:
        file: a path, or a binary file that is read from its current position.
        shortest_side: the size in pixels that a following ``Resize(shortest_side)`` will give
            the shortest side. A JPEG of more than four times that size is then decoded at 1/2,
            1/4 or 1/8 of its size (never below twice ``shortest_side``), which is faster and
            leaves the size after resizing as it would have been.

    Raises:
        ImageError: the contents are no image, are damaged or truncated, or have more pixels than
            Pillow's limit against decompression bombs (``PIL.Image.MAX_IMAGE_PIXELS``, doubled).
        OSError: the file cannot be read at all (missing, no permission, failing disk).
    """
    # Reading first keeps a failing disk (OSError) apart from a damaged image (ImageError).
    if hasattr(file, "read"):
        name, data = getattr(file, "name", "image"), file.read()
    else:
        name = os.fspath(file)
        with open(file, "rb") as stream:
            data = stream.read()
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _decode(image, shortest_side)
    # On damaged files Pillow's readers raise whatever their parsing runs into (OSError,
    # SyntaxError, struct.error, IndexError, zlib.error, ...), so nothing narrower will do.
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def resized_size(width: int, height: int, shortest_side: int) -> tuple[int, int]:
    """Width and height after the shortest side became ``shortest_side``, long side rounded down."""
    if width <= height:
        return shortest_side, int(shortest_side * height / width)
    return int(shortest_side * width / height), shortest_side


def _decode(image: Image.Image, shortest_side: int | None) -> Image.Image:
    if shortest_side is not None and image.format == "JPEG":
        factor = _draft_factor(*image.size, shortest_side)
        image.draft(None, (image.width // factor, image.height // factor))
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
        image.info.pop("exif", None)  # Or the next reader would turn it once more.
    return image


def _draft_factor(width: int, height: int, shortest_side: int) -> int:
    """Largest JPEG reduction that stays above 2 x shortest_side and keeps the resized size."""
    for factor in (8, 4, 2):
        reduced = -(-width // factor), -(-height // factor)
        if min(width, height) // factor >= 2 * shortest_side and resized_size(
            *reduced, shortest_side
        ) == resized_size(width, height, shortest_side):
            return factor
    return 1


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Damaged metadata around sound pixels: the picture is as it stands.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in _SIXTEEN_BIT_FORMATS):
        # Pillow's own conversion clips at 255 and would turn nearly every pixel white.
        high_byte = np.asarray(image).astype(np.int32) >> 8
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    if mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {mode}) have no agreed range; save as 8 or 16 bits")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or of a format that Pillow does not know"
    return str(error) or type(error).__name__
