"""The feature maps of one image, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastconv._layers import device_of, features
from fastconv.visualize.pictures import enlarge, grid, map_picture

# Layers that in evaluation show what the layer before them shows.
_SAME = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)


def feature_maps(
    model: nn.Module, image: Tensor, layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """What each layer makes of an image.

    Args:
        image: (C, H, W), as the model takes it.
        layers: names of layers; None: all without parts of their own, but those that in evaluation
            change nothing.

    Returns:
        By name, (maps, H, W) of convolutional layers and (units,) of fully connected ones.
    """
    if image.dim() != 3:
        raise ValueError(
            f"feature_maps: image must have shape (C, H, W) (got {tuple(image.shape)})"
        )
    if layers is None:
        layers = [
            name
            for name, module in model.named_modules()
            if name and not list(module.children()) and not isinstance(module, _SAME)
        ]
    outputs = features(model, image[None].to(device_of(model)), layers)
    return {name: output[0].cpu() for name, output in outputs.items()}


def maps_picture(maps: Tensor, *, scale: str = "map", side: int = 40) -> np.ndarray:
    """One layer's maps (maps, H, W), or units (units,), as a grid.

    Black is 0, or where a layer has negative outputs, mid-grey is.

    Args:
        scale: white is the largest activation of each "map" or of the whole "layer".
        side: about how many pixels a small map becomes; larger ones stay as they are.
    """
    if scale not in ("map", "layer"):
        raise ValueError(f"maps_picture: scale must be 'map' or 'layer' (got scale={scale!r})")
    if maps.dim() == 1:  # units: one cell each, which only a common scale can show
        height = max(1, int(len(maps) ** 0.5 / 1.5))
        missing = -len(maps) % height
        cells = torch.nn.functional.pad(maps, (0, missing)).view(height, -1)
        cells = map_picture(cells, signed=bool((maps < 0).any()))
        return enlarge(cells, max(8 * height, 2 * side))
    if maps.dim() != 3:
        raise ValueError(f"maps_picture: must be (maps, H, W) or (units,) (got {maps.shape})")
    limit = float(maps.abs().max()) if scale == "layer" else None
    signed = bool((maps < 0).any())
    columns = None if len(maps) < 8 else max(8, round((1.5 * len(maps)) ** 0.5))
    pictures = [enlarge(map_picture(m, limit, signed=signed), side) for m in maps]
    return grid(pictures, columns, gap=2, fill=90)
