"""Invariance: how far features move when the image is moved, enlarged or turned.

Zeiler & Fergus, arXiv:1311.2901, section 4.1 and figure 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import _figures
from fastconv._layers import OUTPUT, device_of, features, main_layers

KINDS = ("translation", "scale", "rotation")
_UNITS = {"translation": "pixels down", "scale": "factor", "rotation": "degrees"}


@dataclass(frozen=True)
class Invariance:
    """Curves of one kind of change.

    Attributes:
        kind: "translation", "scale" or "rotation".
        values: (V,), pixels downwards, factors, or degrees counter-clockwise.
        distances: by layer, (N, V): Euclidean distance of the features to the original's.
        probability: (N, V), of each image's target.
    """

    kind: str
    values: np.ndarray
    distances: dict[str, np.ndarray]
    probability: np.ndarray

    def draw(self, panels: Sequence[Any], names: Sequence[str]) -> None:
        """Draw into one matplotlib axes for each layer and one for the probability."""
        curves = [(f"{layer}: distance", d) for layer, d in self.distances.items()]
        curves.append(("p(true class)", self.probability))
        for axes, (title, lines) in zip(panels, curves, strict=True):
            _figures.plain(axes, title=title, x=f"{self.kind}, {_UNITS[self.kind]}")
            for index, (name, line) in enumerate(zip(names, lines, strict=True)):
                axes.plot(self.values, line, label=name, linewidth=1.5, **_figures.style_of(index))
            axes.set_ylim(0, 1.02 if lines is self.probability else None)


def change(images: Tensor, kind: str, value: float, fill: float = 0.0) -> Tensor:
    """Images (N, C, H, W) moved down by pixels, scaled by a factor or turned by degrees.

    Scaling and turning are about the centre, sampled bilinearly; what comes in from outside is
    ``fill``.
    """
    if kind not in KINDS:
        raise ValueError(f"change: kind must be one of {', '.join(KINDS)} (got kind={kind!r})")
    if kind == "scale" and not value > 0:
        raise ValueError(f"change: a scale must be above 0 (got value={value})")
    height, width = images.shape[2:]
    cos, sin, factor, down = 1.0, 0.0, 1.0, 0.0
    if kind == "translation":
        down = 2 * value / height
    elif kind == "scale":
        factor = 1 / value
    else:
        angle = np.deg2rad(value)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
    # affine_grid asks where in the original each pixel comes from, in units of half the image.
    theta = torch.tensor(
        [
            [cos * factor, -sin * factor * height / width, 0.0],
            [sin * factor * width / height, cos * factor, -down],
        ],
        dtype=images.dtype,
        device=images.device,
    )
    places = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - fill, places, padding_mode="zeros", align_corners=False)
    return moved + fill


def default_values(kind: str, height: int) -> np.ndarray:
    """The paper's ranges: 60 of 224 pixels up and down, factors 1 to 1.8, all the way round."""
    if kind == "translation":
        most = max(1, round(60 / 224 * height))
        step = max(1, round(most / 12))
        return np.arange(-(most // step), most // step + 1) * step
    return np.linspace(1, 1.8, 17) if kind == "scale" else np.arange(0, 360, 15)


def invariance(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int],
    kind: str,
    values: Sequence[float] | None = None,
    *,
    layers: Sequence[str] | None = None,
    fill: float = 0.0,
    progress: Callable[[int, int], Any] | None = None,
) -> Invariance:
    """Change images step by step and measure how far features and probabilities go with it.

    Args:
        images: (N, C, H, W), as the model takes them. One step of all images is a batch.
        targets: their true classes.
        kind: "translation", "scale" or "rotation".
        values: the steps; None: `default_values`.
        layers: None: the first layer and the last before the class scores (ZFNet's 1 and 7).
        fill: what comes in from outside the image; 0 is the mean where the mean was subtracted.
    """
    if len(targets) != len(images):
        raise ValueError(
            f"invariance: there must be a target for each image (got {len(targets)} targets, "
            f"{len(images)} images)"
        )
    values = default_values(kind, images.shape[2]) if values is None else np.asarray(values)
    if layers is None:
        every = main_layers(model)
        layers = list(dict.fromkeys([every[0], every[-2] if len(every) > 1 else every[-1]]))
    images = images.to(device_of(model))
    targets = torch.as_tensor(list(targets), device=images.device)[:, None]
    original = features(model, images, [*layers, OUTPUT])
    distances: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    probability = []
    for done, value in enumerate(values, 1):
        outputs = features(model, change(images, kind, float(value), fill), [*layers, OUTPUT])
        for layer in layers:
            gap = (outputs[layer] - original[layer]).double().flatten(1).norm(dim=1)
            distances[layer].append(gap.cpu().numpy())
        chances = outputs[OUTPUT].double().softmax(1).gather(1, targets)[:, 0]
        probability.append(chances.cpu().numpy())
        if progress is not None:
            progress(done, len(values))
    return Invariance(
        kind,
        np.asarray(values),
        {layer: np.stack(columns, 1) for layer, columns in distances.items()},
        np.stack(probability, 1),
    )


def invariance_figure(
    results: Sequence[Invariance], names: Sequence[str], examples: Sequence[np.ndarray] = ()
) -> Any:
    """One row for each kind of change, as in the paper: example pictures, distances, probability.

    Args:
        names: of the images.
        examples: for each row a picture of changed images; may be left out.
    """
    columns = len(results[0].distances) + 1
    figure = _figures.new_figure(4 * (columns + bool(len(examples))), 3.1 * len(results) + 0.4)
    panels = figure.subplots(len(results), columns + bool(len(examples)), squeeze=False)
    for row, result in enumerate(results):
        if len(examples):
            _figures.image(panels[row][0], examples[row], title=f"{result.kind}, examples")
        result.draw(panels[row][-columns:], names)
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False
    )
    return figure
