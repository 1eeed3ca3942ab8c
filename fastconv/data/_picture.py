"""An image on its way through a pipeline: steps note down what they want, the end does it once.

Resizing a photograph and cropping it afterwards computes pixels that nobody looks at, and so does
subtracting a mean image before a crop. A `Picture` therefore only records geometry (resize, window,
mirror) and arithmetic. `render` then resizes the window alone, converts it to float in one pass and
runs the arithmetic in place.

The result is, bit for bit, the one that the steps would have given one by one, with one exception.
Pillow resizes in two passes, rounds to 8 bits between them, and takes the cheaper order of the two
for the size at hand. So a window resized alone can differ by a grey level, seldom two, from the
window of the whole: in Caltech-101's photographs resized to 256, in one value of a thousand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_PILLOW_MODES = ("RGB", "L", "F")


class Plane:
    """An image-sized constant (C, H, W), laid out so that any window of it is quick to subtract."""

    def __init__(self, values: Tensor):
        self.rows = np.ascontiguousarray(values.permute(1, 2, 0).numpy())
        self.mirrored = np.ascontiguousarray(self.rows[:, ::-1])

    def window(self, top: int, left: int, height: int, width: int, mirror: bool) -> np.ndarray:
        """The window (height, width, C), mirrored left to right where `mirror` says so."""
        if mirror:
            left = self.rows.shape[1] - left - width
        rows = self.mirrored if mirror else self.rows
        return rows[top : top + height, left : left + width]


class Picture:
    """Pixels, the window of them that is wanted, and the arithmetic still to be done on it.

    `height` and `width` are the current size. Before `to_float` the picture is a Pillow image,
    afterwards a float32 tensor.
    """

    def __init__(self, image: Image.Image | np.ndarray | Tensor):
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, Image.Image):
            self._start(image, *image.size[::-1], floating=False)
        elif isinstance(image, Tensor):
            if image.ndim != 3 or image.dtype != torch.float32 or image.device.type != "cpu":
                raise TypeError(
                    "transforms take float32 tensors (C, H, W) on the CPU "
                    f"(got {image.dtype} {tuple(image.shape)} on {image.device})"
                )
            pixels = image.detach().permute(1, 2, 0).numpy()
            self._start(pixels, *pixels.shape[:2], floating=True)
        else:
            raise TypeError(
                "transforms take Pillow images, uint8 arrays (H, W, C) or float32 tensors "
                f"(C, H, W) (got {type(image).__name__})"
            )

    def _start(self, source, height: int, width: int, floating: bool) -> None:
        self.source = source  # Pillow image, or float32 array (H, W, C)
        self.frame = (height, width)  # what the source is resized to
        self.top = self.left = 0  # where the window stands in the frame
        self.height, self.width = height, width
        self.mirrored = False
        self.floating = floating
        self.arithmetic: list = []  # functions that change a float array (H, W, C) in place

    @property
    def channels(self) -> int:
        if isinstance(self.source, Image.Image):
            return len(self.source.getbands())
        return self.source.shape[2]

    def resize(self, height: int, width: int) -> None:
        self._want_pixels("Resize")
        if (height, width) == (self.height, self.width):
            return
        if self.mirrored or not (self.height, self.width) == self.frame == self.source.size[::-1]:
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
            self._start(padded, *padded.shape[:2], floating=True)
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
        if self.source.mode not in _PILLOW_MODES:
            raise ValueError(
                "ToTensor takes Pillow images of mode RGB, L or F "
                f"(got {self.source.mode}); open_image gives RGB"
            )
        self.floating = True

    def subtract_plane(self, plane: Plane) -> None:
        # The window may move on before the arithmetic runs; where it stands now is the plane's
        # origin. Seen through a mirror the plane lies mirrored over the pixels.
        top, left, mirrored, full_width = self.top, self.left, self.mirrored, self.width

        def subtract(pixels: np.ndarray) -> None:
            offset = self.left - left
            if mirrored:
                offset = full_width - offset - self.width
            pixels -= plane.window(
                self.top - top, offset, self.height, self.width, self.mirrored != mirrored
            )

        self.arithmetic.append(subtract)

    def subtract(self, values: np.ndarray) -> None:
        self._per_channel(np.subtract, values)

    def add(self, values: np.ndarray) -> None:
        self._per_channel(np.add, values)

    def divide(self, values: np.ndarray) -> None:
        self._per_channel(np.divide, values)

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Go on from ``change(tensor)``, for steps that look at more than one place at once."""
        self._settle()
        image = change(torch.from_numpy(self.source).permute(2, 0, 1).contiguous())
        self._start(image.permute(1, 2, 0).numpy(), self.height, self.width, floating=True)

    def _per_channel(self, operation: np.ufunc, values: np.ndarray) -> None:
        def run(pixels: np.ndarray) -> None:
            if (values == values[0]).all():
                operation(pixels, values[0], out=pixels)
            else:
                # A row of repeated values lets the inner loop run over W * C numbers, not C.
                rows = pixels.reshape(len(pixels), -1)
                operation(rows, np.tile(values, pixels.shape[1]), out=rows)

        self.arithmetic.append(run)

    def render(self) -> Image.Image | Tensor:
        """Do what was noted down. Tensors are (C, H, W) over channels-last memory."""
        if not self.floating:
            return self._window_of_image()
        return torch.from_numpy(self._pixels()).permute(2, 0, 1)

    def _pixels(self) -> np.ndarray:
        if isinstance(self.source, Image.Image):
            window = np.asarray(self._window_of_image())
            pixels = np.empty((self.height, self.width, self.channels), np.float32)
            scale = np.float32(1 if self.source.mode == "F" else 255)
            np.divide(window.reshape(pixels.shape), scale, out=pixels)
        else:
            window = self.source[
                self.top : self.top + self.height, self.left : self.left + self.width
            ]
            pixels = np.array(window[:, ::-1] if self.mirrored else window, order="C")
        for change in self.arithmetic:
            change(pixels)
        return pixels

    def _window_of_image(self) -> Image.Image:
        image, (frame_height, frame_width) = self.source, self.frame
        window = (self.left, self.top, self.left + self.width, self.top + self.height)
        if image.size != (frame_width, frame_height):
            # Pillow filters across the edges of `box`, so this is the window of the whole resize.
            x, y = image.width / frame_width, image.height / frame_height
            left, top, right, bottom = window
            box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
            image = image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)
        elif window != (0, 0, *image.size):
            image = image.crop(window)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image

    def _settle(self) -> None:
        """Do what was noted down so far, and go on from the result."""
        result = self._pixels() if self.floating else self._window_of_image()
        self._start(result, self.height, self.width, self.floating)

    def _want_pixels(self, step: str) -> None:
        if self.floating:
            raise TypeError(f"{step} takes Pillow images, not tensors: put it before ToTensor")


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2:]
    if array.dtype != np.uint8 or array.ndim < 2 or channels not in ((), (1,), (3,)):
        raise TypeError(
            "transforms take uint8 arrays (H, W, 3), (H, W, 1) or (H, W) "
            f"(got {array.dtype} {array.shape})"
        )
    return Image.fromarray(array[:, :, 0] if channels == (1,) else array)
