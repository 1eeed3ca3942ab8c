"""A run as the demo asks it: class probabilities, and the two pictures on demand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fastconv._layers import CONVOLUTIONS, device_of, main_layers
from fastconv.demo.uploads import SIDE
from fastconv.run import Run
from fastconv.visualize.deconvnet import Deconvnet
from fastconv.visualize.occlusion import occlusion
from fastconv.visualize.pictures import pixel_picture, signed_picture
from fastconv.visualize.report import Report

_RED = np.array([213, 94, 0], np.float64)  # told apart from grey with every kind of colour vision


class Classifier:
    """What the demo needs of a run.

    Args:
        run: with its weights loaded and its model on the device.
        top: classes an answer.
    """

    def __init__(self, run: Run, top: int = 5):
        self.run = run
        self.top = min(top, len(run.classes))
        self._report = Report(run, run.path)  # knows what of a picture the model sees; unwritten

    @property
    def names(self) -> list[str]:
        """The classes' names for people, in the order of the model's outputs."""
        return [self.run.name_of(label) for label in self.run.classes]

    def input(self, picture: Image.Image) -> Tensor:
        """What the model gets for a picture, (C, H, W)."""
        return self.run.preprocess(picture)

    def predictions(self, probabilities: Tensor) -> list[dict[str, Any]]:
        """The most probable classes, the first one first."""
        values, indices = probabilities.topk(self.top)
        labels = [self.run.classes[i] for i in indices.tolist()]
        return [
            {"label": label, "name": self.run.name_of(label), "probability": p}
            for label, p in zip(labels, values.tolist(), strict=True)
        ]

    def occlusion_png(self, picture: Image.Image) -> bytes:
        """The picture in grey, the redder the more hiding a place lowers the first class."""
        image = self.input(picture)
        size = max(1, round(50 / 224 * min(image.shape[1:])))
        found = occlusion(
            self.run.model, image, size=size, stride=max(1, size // 3), fill=self._report.grey
        )
        drop = found.per_pixel(image.shape[1:]).clip(0)
        strength = drop / drop.max() if drop.max() > 0 else drop
        shown = pixel_picture(self._report.view(picture)).astype(np.float64)
        grey = shown.mean(2, keepdims=True) * np.ones(3)
        weight = 0.75 * _enlarged(strength)[:, :, None]
        mixed = (1 - weight) * _enlarged(grey) + weight * _RED
        return png(np.rint(mixed).astype(np.uint8))

    def deconvnet_png(self, picture: Image.Image) -> bytes:
        """The strongest map of the last convolution, projected back to pixels."""
        image = self.input(picture).to(device_of(self.run.model))
        layer = main_layers(self.run.model, CONVOLUTIONS)[-1]
        projection = Deconvnet(self.run.model)(image, layer, at="all").pixels[0]
        shown = signed_picture(projection)
        return png(np.rint(_enlarged(shown.astype(np.float64))).astype(np.uint8))


def png(pixels: Image.Image | np.ndarray) -> bytes:
    """A picture as the bytes of a PNG."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _enlarged(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) at the size in which pictures are shown, each pixel repeated."""
    rows = np.arange(SIDE) * values.shape[0] // SIDE
    columns = np.arange(SIDE) * values.shape[1] // SIDE
    return values[rows][:, columns]
