"""Pictures to try the demo with, where the run's data are at hand on every machine."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fastconv.data.digits import Digits
from fastconv.demo.classifier import png
from fastconv.run import Run

_COUNT = 6
_SCALE = 32  # 8x8 pixels become 256x256


def example_pictures(run: Run) -> list[bytes]:
    """PNGs of validation digits for a run on scikit-learn's digits; none for other runs."""
    if run.config["settings"].get("data") is not None or run.config["input_size"][0] != 1:
        return []
    try:
        digits = Digits("val", transform=np.asarray)
    except ImportError:  # scikit-learn is not installed, and the demo does not need it
        return []
    # They stand in an order that repeats the classes; these six are of six of them.
    pictures = [digits[index][0] for index in range(_COUNT)]
    return [png(_enlarged(pixels)) for pixels in pictures]


def _enlarged(pixels: np.ndarray) -> Image.Image:
    grey = np.rint(pixels * 255).astype(np.uint8)
    return Image.fromarray(grey.repeat(_SCALE, 0).repeat(_SCALE, 1))
