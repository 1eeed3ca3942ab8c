"""Which pixels a unit of a layer can see."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import nn

from fastconv import nn as fnn
from fastconv._layers import _Reached, blank_image, find_layer, looking
from fastconv.models._stages import CeilPad2d
from fastconv.ops._arguments import as_pair, pair

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, fnn.TiledConv2d, fnn.StochasticPool2d)
_WINDOWS += (fnn.SumPool2d,)


class ReceptiveField(NamedTuple):
    """Rows and columns of the image that a layer's units see; each pair is (vertical, horizontal).

    Unit (y, x) sees the ``size`` pixels from ``start + (y, x) * stride`` on, as far as they are
    inside the image. ``whole``: every unit sees the whole image.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]
    whole: bool = False

    def window(self, y: int, x: int, image: tuple[int, int]) -> tuple[slice, slice]:
        """The rows and columns for unit (y, x), moved into an image of that (height, width)."""
        slices = []
        for unit, size, stride, start, length in zip(
            (y, x), self.size, self.stride, self.start, image, strict=True
        ):
            size = min(size, length)
            first = min(max(start + unit * stride, 0), length - size)
            slices.append(slice(first, first + size))
        return slices[0], slices[1]


def receptive_field(
    model: nn.Module, layer: str, input_size: tuple[int, int, int]
) -> ReceptiveField:
    """The receptive field of the units of ``layer``, for models whose layers form a chain.

    Layers that are no windows over positions, such as fully connected ones, see all.

    Args:
        input_size: (C, H, W) of the images.
    """
    find_layer(model, layer)
    fields = receptive_fields(model, input_size, layer)
    if layer not in fields:
        raise ValueError(f"layer: {layer} did not run in the model's forward")
    return fields[layer]


def receptive_fields(
    model: nn.Module, input_size: tuple[int, int, int], last: str | None = None
) -> dict[str, ReceptiveField]:
    """The receptive field of every layer in the order in which they run, up to ``last``; as
    `receptive_field`, in one pass.
    """
    size, stride, start = [1, 1], [1, 1], [0, 0]
    whole = False
    fields: dict[str, ReceptiveField] = {}

    def hook(name: str):
        def after(module: nn.Module, inputs: tuple, output) -> None:
            nonlocal whole
            if not list(module.children()):
                window = _window_of(module)
                whole = whole or (window is None and not _is_pointwise(module, inputs[0], output))
                for axis, (kernel, step, padding, dilation) in enumerate(
                    zip(*window, strict=True) if window else ()
                ):
                    start[axis] -= padding * stride[axis]
                    size[axis] += (kernel - 1) * dilation * stride[axis]
                    stride[axis] *= step
            fields[name] = (
                ReceptiveField(as_pair(input_size[1:]), (0, 0), (0, 0), True)
                if whole
                else ReceptiveField(as_pair(size), as_pair(stride), as_pair(start))
            )
            if name == last:
                raise _Reached

        return after

    hooks = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name]
    try:
        with contextlib.suppress(_Reached), torch.no_grad(), looking(model):
            model(blank_image(model, input_size))
    finally:
        for handle in hooks:
            handle.remove()
    return fields


def _window_of(module: nn.Module) -> tuple | None:
    """Kernel, stride, padding (top left) and dilation of a layer with a window, as pairs."""
    if isinstance(module, fnn.LocalContrastNorm):
        size = 2 * (module.kernel_size - 1) + 1  # the mean's window, then the deviation's over it
        return [size] * 2, [1, 1], [size // 2] * 2, [1, 1]
    if isinstance(module, fnn.LocalResponseNorm) and module.region == "within":
        return [module.size] * 2, [1, 1], [module.size // 2] * 2, [1, 1]
    if not isinstance(module, _WINDOWS):
        return None
    kernel = pair("layer", "kernel_size", module.kernel_size)
    stride = pair("layer", "stride", kernel if module.stride is None else module.stride)
    dilation = pair("layer", "dilation", getattr(module, "dilation", 1))
    if module.padding == "valid":
        padding = [0, 0]
    elif module.padding == "same":
        padding = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    else:
        assert not isinstance(module.padding, str)
        padding = pair("layer", "padding", module.padding)
    return kernel, stride, padding, dilation


def _is_pointwise(module: nn.Module, input: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether a layer without a window left all positions where they are."""
    return isinstance(module, CeilPad2d) or output.shape[2:] == input.shape[2:] != ()
