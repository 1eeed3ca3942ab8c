"""Where a detector looks, and what the network makes of each place.

Two ways to candidates: region proposals, each warped to the network's input (R-CNN), and the
windows of dense passes at several sizes (OverFeat).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastconv import data
from fastconv._layers import device_of, features
from fastconv.data import transforms
from fastconv.detection.boxes import as_boxes
from fastconv.detection.dense import to_dense
from fastconv.detection.proposals import proposer
from fastconv.run import Run


class Regions:
    """Candidates of R-CNN: proposals, each warped to the network's input with some context.

    Girshick et al., arXiv:1311.2524, section 2.1 and appendix A. What the context has beyond the
    picture is filled with the data's mean colour.

    Args:
        run: whose network and units of pixels are used.
        layer: whose outputs are the features.
        proposals: "selective" or "grid", see `fastconv.detection.proposals`.
        most: proposals a picture.
        context: pixels of context on each side of the warped region; None: 16 of 227 as in the
            paper.
        batch_size: regions at once.
    """

    def __init__(
        self,
        run: Run,
        layer: str,
        *,
        proposals: str = "selective",
        most: int = 2000,
        context: int | None = None,
        batch_size: int = 64,
    ):
        _, self.height, self.width = run.config["input_size"]
        if context is None:
            context = round(16 / 227 * min(self.height, self.width))
        if not 0 <= 2 * context < min(self.height, self.width):
            raise ValueError(
                f"Regions: context must leave something of {self.height}x{self.width} pixels "
                f"(got context={context})"
            )
        self.model, self.layer, self.batch_size, self.context = (
            run.model,
            layer,
            batch_size,
            context,
        )
        self.prepare = PixelUnits(run)
        self.propose = proposer(proposals, most)

    def __call__(self, picture: Image.Image, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Candidates of a picture.

        Args:
            picture: RGB.
            more: (M, 4), further regions, which come first.

        Returns:
            Boxes (N, 4) and features (N, d), float16, on the CPU.
        """
        boxes = self.propose(np.asarray(picture))
        if more is not None:
            boxes = torch.cat([more, boxes])
        found = []
        for part in boxes.split(self.batch_size):
            warped = torch.stack([self.prepare(self.warp(picture, b)) for b in part.tolist()])
            outputs = features(self.model, warped.to(device_of(self.model)), [self.layer])
            found.append(outputs[self.layer].flatten(1).half().cpu())
        return boxes, torch.cat(found) if found else torch.zeros(0, 0)

    def warp(self, picture: Image.Image, box: Sequence[float]) -> Image.Image:
        """The region with its context as a picture of the network's input size."""
        left, top, right, bottom = box
        grown = []
        for low, high, side in ((left, right, self.width), (top, bottom, self.height)):
            more = (high - low) * self.context / (side - 2 * self.context)
            grown.append((low - more, high + more, side))
        canvas = Image.new("RGB", (self.width, self.height), self.prepare.mean_colour)
        places, source = [], []
        for (low, high, side), length in zip(grown, picture.size, strict=True):
            first, last = max(low, 0.0), min(high, float(length))
            scale = side / (high - low)
            start = min(round((first - low) * scale), side - 1)
            places.append((start, max(round((last - low) * scale), start + 1)))
            source.append((first, last))
        size = tuple(end - start for start, end in places)
        window = (source[0][0], source[1][0], source[0][1], source[1][1])
        part = picture.resize(size, Image.Resampling.BILINEAR, box=window)
        canvas.paste(part, (places[0][0], places[1][0]))
        return canvas


class Windows:
    """Candidates of the sliding window: all windows of dense passes at several sizes.

    Sermanet et al. (OverFeat), arXiv:1312.6229. Boxes are in the picture's pixels.

    Args:
        run: whose network and units of pixels are used.
        layer: whose outputs are the features; behind the flattening, such as relu7.
        sizes: shortest sides in pixels to which a picture is resized; at least the network's
            input. The smaller, the larger is what fills a window.
        fine: with offset pooling.
    """

    def __init__(
        self, run: Run, layer: str, *, sizes: Sequence[int] = (224, 320, 448), fine: bool = True
    ):
        self.model = to_dense(_up_to(run.model, layer), tuple(run.config["input_size"]))
        if min(sizes) < max(self.model.window):
            raise ValueError(
                f"Windows: sizes must be at least the input's {max(self.model.window)} pixels "
                f"(got {min(sizes)})"
            )
        self.prepare, self.sizes, self.fine = PixelUnits(run), tuple(sizes), fine

    @torch.no_grad()
    def __call__(self, picture: Image.Image, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Regions`, without its ``more``: windows are where they are."""
        found, boxes = [], []
        for size in self.sizes:
            factor = size / min(picture.size)
            width, height = (max(size, round(n * factor)) for n in picture.size)
            resized = picture.resize((width, height), Image.Resampling.BILINEAR)
            image = self.prepare(resized)[None].to(device_of(self.model))
            maps = (self.model.fine if self.fine else self.model)(image)
            found.append(maps[0].flatten(1).T.half().cpu())
            windows = self.model.windows(maps.shape[2:], fine=self.fine).reshape(-1, 4)
            scale = [n / m for n, m in zip(picture.size, resized.size, strict=True)] * 2
            boxes.append(windows * torch.tensor(scale))
        return as_boxes(torch.cat(boxes)), torch.cat(found)


class PixelUnits:
    """A picture of any size to a tensor (C, H, W) in the units that a run's network takes.

    That is the run's evaluation pipeline without resizing and cropping. A mean image is of one size
    only; its mean colour stands for it.

    Attributes:
        mean_colour: (red, green, blue) in 0 to 255, which becomes about 0.
    """

    def __init__(self, run: Run):
        steps: list[Any] = []
        self.mean_colour: tuple[int, ...] = (0, 0, 0)
        for step in getattr(run.transform, "transforms", [run.transform]):
            if isinstance(step, transforms.SubtractMean):
                mean = step.mean.flatten(1).mean(1) if step.mean.ndim == 3 else step.mean
                steps.append(transforms.SubtractMean(mean))
                colour = (255 * mean).round().int().tolist()
                self.mean_colour = tuple(colour if len(colour) == 3 else colour * 3)
            elif isinstance(
                step, (transforms.Grayscale, transforms.ToTensor, transforms.Normalize)
            ):
                steps.append(step)
        self.steps = data.transforms.Compose(steps)

    def __call__(self, picture: Image.Image) -> Tensor:
        return self.steps(picture)


def _up_to(model: nn.Module, layer: str) -> nn.Sequential:
    """The chain of a model's layers as far as ``layer``."""
    names = [name for name, _ in model.named_children()]
    if not isinstance(model, nn.Sequential) or layer not in names:
        raise ValueError(f"Windows: layer must be one of {', '.join(names)} (got {layer!r})")
    part = list(model.named_children())[: names.index(layer) + 1]
    if not any(isinstance(stage, nn.Flatten) for _, stage in part):
        raise ValueError(
            f"Windows: layer must be behind the flattening, where a window is a vector "
            f"(got {layer!r})"
        )
    return nn.Sequential(OrderedDict(part))
