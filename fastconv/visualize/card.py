"""A network's card: layer by layer what it gives, costs and sees, and the memory of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastconv._layers import blank_image, looking
from fastconv._receptive_field import receptive_fields
from fastconv.visualize.diagnostics import layer_costs

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class CardRow:
    """A layer without children.

    Attributes:
        layer, kind: name and class.
        output: shape for one image.
        parameters: trained numbers.
        macs: multiply-adds for one image; convolutions and linear layers have them.
        sees: rows and columns of the image in the receptive field of a unit; None: all of it.
        is_kept: whether training keeps the output for the way back: views of the input and layers
            that pass it on take nothing.
    """

    layer: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    sees: tuple[int, int] | None
    is_kept: bool


@dataclass(frozen=True)
class Card:
    """The rows of a network for images (C, H, W), and sums over them."""

    input_size: tuple[int, int, int]
    rows: list[CardRow]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    def training_bytes(self, batch: int) -> int:
        """Of float32: weights, gradients and momentum, the batch, and every kept output."""
        kept = sum(_product(row.output) for row in self.rows if row.is_kept)
        return _FLOAT * (3 * self.parameters + batch * (_product(self.input_size) + kept))

    def inference_bytes(self, batch: int) -> int:
        """Of float32: weights, and the largest input and output of a layer that meet."""
        sizes = [_product(self.input_size)]
        sizes += [_product(row.output) for row in self.rows if row.is_kept]
        largest = max(a + b for a, b in zip(sizes, [*sizes[1:], 0], strict=True))
        return _FLOAT * (self.parameters + batch * largest)


def model_card(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> Card:
    """The card of a network whose layers form a chain. It may be on the device "meta".

    Args:
        input_size: (C, H, W); default: the model's own.
    """
    network: Any = model
    size = tuple(input_size or network.input_size)
    outputs: dict[str, tuple[tuple[int, ...], bool]] = {}

    def listen(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            shares = output is inputs[0] or output._is_view()
            outputs[name] = tuple(output.shape[1:]), not shares

        return hook

    leaves = {n: m for n, m in model.named_modules() if n and not any(m.children())}
    hooks = [module.register_forward_hook(listen(name)) for name, module in leaves.items()]
    try:
        with torch.no_grad(), looking(model):
            model(blank_image(model, size))
    finally:
        for hook in hooks:
            hook.remove()
    fields = receptive_fields(model, size)
    costs = {row.layer: row for row in layer_costs(model, size)}
    rows = []
    for name, (shape, is_kept) in outputs.items():
        cost, field = costs.get(name), fields[name]
        # Looked at without drawing, dropout passes its input on; training keeps what it gives.
        dropout = isinstance(leaves[name], nn.Dropout) and leaves[name].p > 0
        rows.append(
            CardRow(
                name,
                type(leaves[name]).__name__,
                shape,
                cost.parameters if cost else 0,
                cost.macs if cost else 0,
                None if field.whole else field.size,
                is_kept or dropout,
            )
        )
    return Card(size, rows)


def _product(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
