"""Occlusion: which part of the image the network needs to see.

Zeiler & Fergus, arXiv:1311.2901, section 4.2: a grey square slides over the image, and at each of
its places they record the probability of the true class, the most probable class, and the total
activation of the feature map that the whole image excited most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastconv import _figures
from fastconv._layers import CONVOLUTIONS, OUTPUT, device_of, features, main_layers


@dataclass(frozen=True)
class Occlusion:
    """What happened at each place of the square.

    Attributes:
        target: the class whose probability it is.
        layer, map: the feature map that the whole image excited most, by total activation.
        tops, lefts: (rows,) and (columns,), the square's first row and column, in pixels.
        size: the square's (height, width) in pixels; at the right and bottom the image cuts it off.
        probability: (rows, columns), of the target.
        activation: (rows, columns), the map's total.
        best: (rows, columns), the most probable class.
        whole_probability, whole_activation, whole_best: the same without the square.
    """

    target: int
    layer: str
    map: int
    tops: np.ndarray
    lefts: np.ndarray
    size: tuple[int, int]
    probability: np.ndarray
    activation: np.ndarray
    best: np.ndarray
    whole_probability: float
    whole_activation: float
    whole_best: int

    def per_pixel(self, image_size: Sequence[int]) -> np.ndarray:
        """By how much the probability drops, averaged over the squares that cover a pixel.

        Returns (H, W); 0 where no square came.
        """
        drop, count = np.zeros(image_size), np.zeros(image_size)
        for i, top in enumerate(self.tops):
            for j, left in enumerate(self.lefts):
                square = np.s_[top : top + self.size[0], left : left + self.size[1]]
                drop[square] += self.whole_probability - self.probability[i, j]
                count[square] += 1
        return drop / np.maximum(count, 1)

    def figure(
        self,
        picture: np.ndarray,
        classes: Sequence[str],
        projection: np.ndarray | None = None,
        fill: int = 128,
    ) -> Any:
        """The paper's panels: image, map's activation, its projection, p(true class), best class.

        Args:
            picture: the image, (H, W, 3), uint8.
            classes: their names, for the legend.
            projection: a picture of the map's projection, of the image's size.
            fill: grey level of the square that is drawn into the image as an example.
        """
        figure = _figures.new_figure(13.2, 3.4)
        panels = figure.subplots(1, 5 if projection is not None else 4)
        example = picture.copy()
        middle = np.s_[self.tops[len(self.tops) // 2] :, self.lefts[len(self.lefts) // 2] :]
        example[middle][: self.size[0], : self.size[1]] = fill
        name = classes[self.target]
        _figures.image(panels[0], example, title=f"{name}, with the square")
        middle = self._middles(picture.shape)
        shown = _figures.image(
            panels[1],
            self.activation,
            title=f"{self.layer}, map {self.map}: total activation",
            extent=middle,
            cmap=_figures.HEAT,
            vmin=0,
        )
        figure.colorbar(shown, ax=panels[1], shrink=0.7).ax.tick_params(labelsize=8)
        if projection is not None:
            _figures.image(panels[2], projection, title=f"projection of map {self.map}")
        shown = _figures.image(
            panels[-2],
            self.probability,
            title=f"p({name})",
            extent=middle,
            cmap=_figures.HEAT,
            vmin=0,
            vmax=1,
        )
        figure.colorbar(shown, ax=panels[-2], shrink=0.7).ax.tick_params(labelsize=8)
        for panel in (panels[1], panels[-2]):
            panel.set_xlim(-0.5, picture.shape[1] - 0.5)
            panel.set_ylim(picture.shape[0] - 0.5, -0.5)
        self._best_panel(panels[-1], classes, middle, picture.shape)
        return figure

    def _middles(self, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
        """Where the maps lie over the image: a cell is around the middle of its square."""
        ends = []
        for first, size, length in zip(
            (self.lefts, self.tops), self.size[::-1], (shape[1], shape[0]), strict=True
        ):
            middles = (first + np.minimum(first + size, length)) / 2 - 0.5
            half = (middles[1] - middles[0]) / 2 if len(middles) > 1 else size / 2
            ends += [middles[0] - half, middles[-1] + half]
        return ends[0], ends[1], ends[3], ends[2]

    def _best_panel(self, panel: Any, classes: Sequence[str], extent: tuple, shape: tuple) -> None:
        found, counts = np.unique(self.best, return_counts=True)
        found = [int(c) for c in found[np.argsort(-counts, kind="stable")]]
        shown = np.empty((*self.best.shape, 3))
        for c in reversed(found):
            colour = _figures.COLOURS[min(found.index(c), 6)].lstrip("#")
            shown[self.best == c] = [int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        _figures.image(panel, shown, title="most probable class", extent=extent)
        panel.set_xlim(-0.5, shape[1] - 0.5)
        panel.set_ylim(shape[0] - 0.5, -0.5)
        for index, c in enumerate(found[:7]):
            label = classes[c] if index < 6 or len(found) == 7 else "others"
            panel.plot([], [], "s", color=_figures.COLOURS[index], label=label)
        panel.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=7, ncols=2, frameon=False
        )


def occlusion(
    model: nn.Module,
    image: Tensor,
    target: int | None = None,
    *,
    size: int | None = None,
    stride: int | None = None,
    layer: str | None = None,
    fill: float | Tensor = 0.0,
    batch_size: int = 64,
    progress: Callable[[int, int], Any] | None = None,
) -> Occlusion:
    """Slide a square over the image and record what the network makes of it.

    The square's first row and column are multiples of ``stride``; the last square reaches the
    border, and is cut off there.

    Args:
        image: (C, H, W), as the model takes it.
        target: the true class; None: the one that is the most probable for the whole image.
        size: side of the square in pixels; None: 50 of 224 of the image's shorter side.
        stride: its step; None: a sixth of ``size``.
        layer: whose maps are looked at; None: the last convolution's rectified output.
        fill: what the square is filled with, in the units of ``image``: a number, or one a
            channel. 0 is the data's mean where the mean was subtracted.
        batch_size: squares a batch.
        progress: called with places done and places in all.
    """
    if image.dim() != 3:
        raise ValueError(f"occlusion: image must have shape (C, H, W) (got {tuple(image.shape)})")
    height, width = image.shape[1:]
    size = max(1, round(50 / 224 * min(height, width))) if size is None else size
    stride = max(1, size // 6) if stride is None else stride
    for name, value in (("size", size), ("stride", stride), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"occlusion: {name} must be at least 1 (got {name}={value})")
    if size > min(height, width):
        raise ValueError(f"occlusion: size must fit {height}x{width} images (got size={size})")
    if layer is None:
        layer = (main_layers(model, CONVOLUTIONS) or main_layers(model))[-1]
    image = image.to(device_of(model))
    fill = torch.as_tensor(fill, dtype=image.dtype, device=image.device).reshape(-1, 1, 1)
    whole = features(model, image[None], [layer, OUTPUT])
    totals = _totals(whole[layer])[0]
    map = int(totals.argmax())
    scores = whole[OUTPUT][0].float().softmax(0)
    target = int(scores.argmax()) if target is None else target
    if not 0 <= target < len(scores):
        raise ValueError(
            f"occlusion: target must be from 0 to {len(scores) - 1} (got target={target})"
        )
    tops, lefts = (np.arange(-(-(n - size) // stride) + 1) * stride for n in (height, width))
    places = [(int(top), int(left)) for top in tops for left in lefts]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(places), batch_size):
        batch = image.expand(len(places[first : first + batch_size]), -1, -1, -1).clone()
        for occluded, (top, left) in zip(batch, places[first:], strict=False):
            occluded[:, top : top + size, left : left + size] = fill
        outputs = features(model, batch, [layer, OUTPUT])
        probabilities = outputs[OUTPUT].float().softmax(1)
        found.append(
            (probabilities[:, target], _totals(outputs[layer])[:, map], probabilities.argmax(1))
        )
        if progress is not None:
            progress(min(first + batch_size, len(places)), len(places))
    shape = (len(tops), len(lefts))
    probability, activation, best = (
        torch.cat(parts).cpu().numpy().reshape(shape) for parts in zip(*found, strict=True)
    )
    return Occlusion(
        target=target,
        layer=layer,
        map=map,
        tops=tops,
        lefts=lefts,
        size=(size, size),
        probability=probability,
        activation=activation,
        best=best,
        whole_probability=float(scores[target]),
        whole_activation=float(totals[map]),
        whole_best=int(scores.argmax()),
    )


def _totals(output: Tensor) -> Tensor:
    """Total activation of each map, (N, maps)."""
    return output.float().flatten(2).sum(2) if output.dim() > 2 else output.float()
