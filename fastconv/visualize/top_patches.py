"""Top patches: the images that excite each feature map most, and what in them does so.

Zeiler & Fergus, arXiv:1311.2901, section 4 and figure 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastconv import data
from fastconv._layers import device_of, features, main_layers
from fastconv._receptive_field import receptive_field
from fastconv.visualize.deconvnet import Deconvnet
from fastconv.visualize.pictures import enlarge, grid, pixel_picture, signed_picture


class TopActivations(NamedTuple):
    """For each map of a layer its largest activations, each in another image, falling.

    ``values`` (maps, top) float32; ``indices`` (maps, top) int64, of the images in the data set;
    ``positions`` (maps, top, 2) int64, row and column in the map. Where there were fewer images
    than ``top``, the columns are fewer.
    """

    values: np.ndarray
    indices: np.ndarray
    positions: np.ndarray

    def live(self) -> np.ndarray:
        """The maps that some image excites above 0."""
        return np.flatnonzero(self.values[:, 0] > 0)


class Patches(NamedTuple):
    """One map's images side by side.

    ``projections`` and ``pixels``: (top, C, h, w), the deconvnet's projections and the image's
    pixels, both cut out around what the unit can see.
    """

    projections: np.ndarray
    pixels: np.ndarray

    def picture(self, columns: int = 3, side: int = 72) -> np.ndarray:
        """Projections on the left, the images' pixels on the right."""
        left = grid([enlarge(signed_picture(p), side) for p in self.projections], columns, 2)
        right = grid([enlarge(pixel_picture(p), side) for p in self.pixels], columns, 2)
        return grid([left, right], 2, gap=6)


class _Indexed:
    """A data set whose targets are the samples' own indices; unreadable ones stay None."""

    def __init__(self, dataset: Any, length: int):
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        sample = self.dataset[index]
        return None if sample is None else (sample[0], index)


def top_activations(
    model: nn.Module,
    dataset: Any,
    layers: Sequence[str] | None = None,
    *,
    top: int = 9,
    limit: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, TopActivations]:
    """The images that excite every map of ``layers`` most, in one pass over a data set.

    Memory holds one batch and ``top`` values a map, whatever the size of the data set. Of equal
    activations the earlier image comes first.

    Args:
        dataset: gives ``(image (C, H, W), target)`` for an index, or None for an unreadable one.
        layers: None: the rectified output of each weighted layer.
        top: images a map.
        limit: look at so many images only, evenly spread over the data set.
        progress: called with batches done and batches in all.

    Raises:
        ValueError: no such layer, no readable image, or a number below 1.
    """
    for name, value in (("top", top), ("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"top_activations: {name} must be at least 1 (got {name}={value})")
    layers = main_layers(model) if layers is None else list(dict.fromkeys(layers))
    device = device_of(model)
    chosen = Spread(dataset, limit)
    loader = data.build_loader(
        _Indexed(chosen, len(chosen)), None, batch_size, workers=workers, device=device
    )
    best: dict[str, TopActivations] = {}
    for done, (images, places, _) in enumerate(loader, 1):
        if len(images):
            maxima = features(model, images.to(device), layers, _maxima)
            indices = chosen.indices[places.numpy()]
            for layer, (values, positions) in maxima.items():
                best[layer] = _merged(best.get(layer), values, positions, indices, top)
        if progress is not None:
            progress(done, len(loader))
    if not best:
        raise ValueError("top_activations: the data set must have a readable image (got none)")
    return best


class Spread:
    """``limit`` samples of a data set, evenly spread; all of them for None.

    ``indices``: theirs in the data set, rising.
    """

    def __init__(self, dataset: Any, limit: int | None):
        self.dataset = dataset
        count = len(dataset) if limit is None else min(limit, len(dataset))
        self.indices = np.arange(count) * len(dataset) // max(1, count)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.dataset[int(self.indices[index])]


def _maxima(output: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Each map's largest activation (N, maps) and its position (N, maps, 2)."""
    flat = output.reshape(*output.shape[:2], -1)
    values, where = flat.float().max(2)
    width = output.shape[3] if output.dim() == 4 else 1
    positions = torch.stack([where // width, where % width], 2)
    return values.cpu().numpy(), positions.cpu().numpy()


def _merged(
    best: TopActivations | None,
    values: np.ndarray,
    positions: np.ndarray,
    indices: np.ndarray,
    top: int,
) -> TopActivations:
    """The best so far and a batch's, (N, maps), cut to ``top`` a map."""
    values, positions = values.T, positions.transpose(1, 0, 2)
    indices = np.broadcast_to(indices, values.shape)
    if best is not None:
        values = np.concatenate([best.values, values], 1)
        indices = np.concatenate([best.indices, indices], 1)
        positions = np.concatenate([best.positions, positions], 1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return TopActivations(
        np.take_along_axis(values, order, 1),
        np.take_along_axis(indices, order, 1),
        np.take_along_axis(positions, order[:, :, None], 1),
    )


def patches(
    deconvnet: Deconvnet,
    layer: str,
    map: int,
    positions: np.ndarray,
    images: Tensor,
    pixels: Tensor | None = None,
) -> Patches:
    """Project one map at given positions of images, and cut out what its unit can see.

    Args:
        positions: (N, 2), a map's row of `TopActivations.positions`.
        images: (N, C, H, W), as the model takes them.
        pixels: (N, C, H, W) in [0, 1], what is shown beside the projection; None: the images,
            stretched to [0, 1].
    """
    projected = deconvnet(images, layer, map, at=torch.as_tensor(positions)).pixels.cpu()
    if pixels is None:
        low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
        pixels = (images - low) / (high - low).clamp_min(1e-12)
    channels, height, width = images.shape[1:]
    field = receptive_field(deconvnet.model, layer, (channels, height, width))
    size = (height, width)
    windows = [field.window(int(y), int(x), size) for y, x in positions]
    shown = zip(projected, pixels.cpu(), windows, strict=True)
    cut = [(p[:, rows, cols].numpy(), q[:, rows, cols].numpy()) for p, q, (rows, cols) in shown]
    return Patches(*(np.stack(part) for part in zip(*cut, strict=True)))


def spread_maps(live: np.ndarray, count: int) -> list[int]:
    """``count`` of the maps, evenly spread over all."""
    count = min(count, len(live))
    return [int(live[i * len(live) // count]) for i in range(count)]
