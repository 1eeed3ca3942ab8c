"""An image on its way through a pipeline: steps note down what they want, the end does it once.

Resizing a photograph and cropping it afterwards computes pixels that nobody looks at, and so does
subtracting a mean image before a crop. A `Picture` therefore only records geometry (resize, window,
mirror) and arithmetic. `render` then resizes the window alone. Where the arithmetic is no more than
the classic recipe's, a mean, a colour shift and a unit, all of it, the mirror and the conversion to
float are one pass over the pixels: `Parts`. Otherwise NumPy goes step by step.

The result is, bit for bit, the one that the steps would have given one by one, with one exception.
Pillow resizes in two passes, rounds to 8 bits between them, and takes the cheaper order of the two
for the size at hand. So a window resized alone can differ by a grey level, seldom two, from the
window of the whole: in Caltech-101's photographs resized to 256, in one value of a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fastconv._library import _C

_PILLOW_MODES = ("RGB", "L", "F")


class Plane:
    """An image-sized constant (C, H, W), laid out so that any window of it is quick to subtract."""

    def __init__(self, values: Tensor):
        self.rows = np.ascontiguousarray(values.permute(1, 2, 0).numpy())

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """The window (height, width, C), a view."""
        return self.rows[top : top + height, left : left + width]


class PerChannel(NamedTuple):
    """Arithmetic with one number a channel, or one for all channels."""

    operation: np.ufunc
    values: np.ndarray


class MinusPlane(NamedTuple):
    """A plane to subtract, and how the window stood when it was asked for.

    That is the plane's origin; the window may have moved on since. Seen through a mirror the plane
    lies mirrored over the pixels.
    """

    plane: Plane
    top: int
    left: int
    width: int
    mirrored: bool


class Parts(NamedTuple):
    """A picture before its last pass, which computes ``(pixels / 255 - mean + shift) / unit``.

    Attributes:
        pixels: (H, W, C), uint8: the window, not mirrored.
        mean: a plane, a colour (C,) or None.
        place: top and left of the window in the plane.
        shift: (C,), float32, or None.
        unit: (C,), float32.
        mirrored: whether the result is the mirror image.
    """

    pixels: np.ndarray
    mean: Plane | np.ndarray | None
    place: tuple[int, int]
    shift: np.ndarray | None
    unit: np.ndarray
    mirrored: bool

    def prepare(self) -> np.ndarray:
        """The last pass, by `fastconv.prepare_images`' kernel: (H, W, C), float32."""
        mean = self.mean
        if isinstance(mean, Plane):
            mean = mean.window(*self.place, *self.pixels.shape[:2])
        return _C.prepare_image(self.pixels, mean, self.shift, self.unit, self.mirrored)


class Picture:
    """Pixels, the window of them that is wanted, and the arithmetic still to be done on it.

    `height` and `width` are the current size. Before `to_float` the picture is a Pillow image,
    afterwards a float32 tensor.
    """

    def __init__(self, image: Image.Image | np.ndarray | Tensor):
        if isinstance(image, np.ndarray):
            pixels = _checked(image)
            self._start(pixels, pixels.shape[0], pixels.shape[1], floating=False)
        elif isinstance(image, Image.Image):
            self._start(image, *image.size[::-1], floating=False)
        elif isinstance(image, Tensor):
            if image.ndim != 3 or image.dtype != torch.float32 or image.device.type != "cpu":
                raise TypeError(
                    "transforms take float32 tensors (C, H, W) on the CPU "
                    f"(got {image.dtype} {tuple(image.shape)} on {image.device})"
                )
            pixels = image.detach().permute(1, 2, 0).numpy()
            self._start(pixels, pixels.shape[0], pixels.shape[1], floating=True)
        else:
            raise TypeError(
                "transforms take Pillow images, uint8 arrays (H, W, C) or float32 tensors "
                f"(C, H, W) (got {type(image).__name__})"
            )

    def _start(self, source, height: int, width: int, floating: bool) -> None:
        self.source = source  # Pillow image, or array (H, W, C) of uint8 or float32
        self.frame = (height, width)  # what the source is resized to
        self.top = self.left = 0  # where the window stands in the frame
        self.height, self.width = height, width
        self.mirrored = False
        self.floating = floating
        self.arithmetic: list[PerChannel | MinusPlane] = []

    @property
    def channels(self) -> int:
        if isinstance(self.source, Image.Image):
            return len(self.source.getbands())
        return self.source.shape[2]

    def resize(self, height: int, width: int) -> None:
        self._want_pixels("Resize")
        if (height, width) == (self.height, self.width):
            return
        if self.mirrored or not (self.height, self.width) == self.frame == self._source_size():
            self._settle()
        self.frame = (height, width)
        self.height, self.width = height, width

    def crop(self, top: int, left: int, height: int, width: int) -> None:
        if self.mirrored:
            left = self.width - left - width
        self.top += top
        self.left += left
        self.height, self.width = height, width

    def mirror(self) -> None:
        self.mirrored = not self.mirrored

    def pad(self, margin: int) -> None:
        """Surround with `margin` zeros on every side."""
        self._settle()
        if self.floating:
            padded = np.pad(self.source, ((margin, margin), (margin, margin), (0, 0)))
            self._start(padded, padded.shape[0], padded.shape[1], floating=True)
        else:
            padded = ImageOps.expand(self.source, margin)
            self._start(padded, *padded.size[::-1], floating=False)

    def to_grey(self) -> None:
        self._want_pixels("Grayscale")
        if self.channels > 1:
            self._settle()
            self.source = self.source.convert("L")

    def to_float(self) -> None:
        self._want_pixels("ToTensor")
        if isinstance(self.source, Image.Image) and self.source.mode not in _PILLOW_MODES:
            raise ValueError(
                "ToTensor takes Pillow images of mode RGB, L or F "
                f"(got {self.source.mode}); open_image gives RGB"
            )
        self.floating = True

    def subtract_plane(self, plane: Plane) -> None:
        self.arithmetic.append(MinusPlane(plane, self.top, self.left, self.width, self.mirrored))

    def subtract(self, values: np.ndarray) -> None:
        self.arithmetic.append(PerChannel(np.subtract, values))

    def add(self, values: np.ndarray) -> None:
        self.arithmetic.append(PerChannel(np.add, values))

    def divide(self, values: np.ndarray) -> None:
        self.arithmetic.append(PerChannel(np.divide, values))

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Go on from ``change(tensor)``, for steps that look at more than one place at once."""
        self._settle()
        image = change(torch.from_numpy(self.source).permute(2, 0, 1).contiguous())
        self._start(image.permute(1, 2, 0).numpy(), self.height, self.width, floating=True)

    def render(self) -> Image.Image | Tensor:
        """Do what was noted down. Tensors are (C, H, W) over channels-last memory."""
        if not self.floating:
            return self._window_of_image()
        return torch.from_numpy(self._pixels()).permute(2, 0, 1)

    def parts(self) -> Parts | None:
        """All that was noted down as one pass over bytes; None where it takes more than one."""
        source = self.source
        is_bytes = source.dtype == np.uint8 if _is_array(source) else source.mode in ("RGB", "L")
        steps = list(self.arithmetic)

        def take(operation: np.ufunc) -> np.ndarray | None:
            step = steps[0] if steps else None
            if not isinstance(step, PerChannel) or step.operation != operation:
                return None
            del steps[0]
            return np.broadcast_to(step.values, self.channels).copy()

        mean: Plane | np.ndarray | None
        first, place = steps[0] if steps else None, (0, 0)
        if isinstance(first, MinusPlane) and not first.mirrored:
            del steps[0]
            mean, place = first.plane, (self.top - first.top, self.left - first.left)
        else:
            mean = take(np.subtract)
        shift, unit = take(np.add), take(np.divide)
        if steps or not is_bytes or not self.floating:
            return None
        unit = np.ones(self.channels, np.float32) if unit is None else unit
        pixels = np.asarray(self._window()).reshape(self.height, self.width, self.channels)
        return Parts(pixels, mean, place, shift, unit, self.mirrored)

    def _pixels(self) -> np.ndarray:
        parts = self.parts()
        return self._step_by_step() if parts is None else parts.prepare()

    def _step_by_step(self) -> np.ndarray:
        window = np.asarray(self._window())
        window = window[:, ::-1] if self.mirrored else window
        pixels = np.empty((self.height, self.width, self.channels), np.float32)
        scale = np.float32(255 if window.dtype == np.uint8 else 1)
        np.divide(window.reshape(pixels.shape), scale, out=pixels)
        for step in self.arithmetic:
            if isinstance(step, MinusPlane):
                pixels -= self._plane_window(step)
            elif (step.values == step.values[0]).all():
                step.operation(pixels, step.values[0], out=pixels)
            else:
                # A row of repeated values lets the inner loop run over W * C numbers, not C.
                rows = pixels.reshape(len(pixels), -1)
                step.operation(rows, np.tile(step.values, pixels.shape[1]), out=rows)
        return pixels

    def _plane_window(self, step: MinusPlane) -> np.ndarray:
        left = self.left - step.left
        if step.mirrored:
            left = step.width - left - self.width
        window = step.plane.window(self.top - step.top, left, self.height, self.width)
        return window[:, ::-1] if self.mirrored != step.mirrored else window

    def _window(self) -> Image.Image | np.ndarray:
        """The window, not mirrored, of the kind of the source; a Pillow image where it resizes."""
        top, left = self.top, self.left
        bottom, right = top + self.height, left + self.width
        if self._source_size() != self.frame:
            image = _pillow(self.source)
            # Pillow filters across the edges of `box`, so this is the window of the whole resize.
            x, y = image.width / self.frame[1], image.height / self.frame[0]
            box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)
        if _is_array(self.source):
            return self.source[top:bottom, left:right]
        whole = (self.height, self.width) == self.frame
        return self.source if whole else self.source.crop((left, top, right, bottom))

    def _window_of_image(self) -> Image.Image:
        image = _pillow(self._window())
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image

    def _settle(self) -> None:
        """Do what was noted down so far, and go on from the result."""
        result = self._pixels() if self.floating else self._window_of_image()
        self._start(result, self.height, self.width, self.floating)

    def _source_size(self) -> tuple[int, int]:
        return self.source.shape[:2] if _is_array(self.source) else self.source.size[::-1]

    def _want_pixels(self, step: str) -> None:
        if self.floating:
            raise TypeError(f"{step} takes Pillow images, not tensors: put it before ToTensor")


def _is_array(source: Image.Image | np.ndarray) -> bool:
    return isinstance(source, np.ndarray)


def _pillow(pixels: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(pixels, Image.Image):
        return pixels
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _checked(array: np.ndarray) -> np.ndarray:
    """A uint8 array as (H, W, C), the bytes of each row side by side."""
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (1,), (3,)):
        raise TypeError(
            "transforms take uint8 arrays (H, W, 3), (H, W, 1) or (H, W) "
            f"(got {array.dtype} {array.shape})"
        )
    array = array if array.ndim == 3 else array[:, :, None]
    dense = array.strides[1:] == (array.shape[2], 1) and array.strides[0] >= 0
    return array if dense else np.ascontiguousarray(array)
