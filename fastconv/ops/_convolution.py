"""What a user may hand to a convolution, plain or tiled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastconv.ops._arguments import autocast, check_like, check_tensor, integer

_INT32_MAX = 2**31 - 1


def operands(
    op: str, input: Tensor, weight: Tensor, bias: Tensor | None, weight_dims: int, shape: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias in the dtype to compute in; ``shape`` tells the weight's."""
    check_tensor(op, "weight", weight)
    if bias is not None:
        check_tensor(op, "bias", bias)
    input, weight, bias = autocast(input, weight, bias)
    if weight.dim() != weight_dims:
        raise ValueError(
            f"{op}: weight must have {weight_dims} dimensions, {shape} (got {tuple(weight.shape)})"
        )
    check_like(op, "weight", weight, "input", input)
    if bias is not None:
        check_like(op, "bias", bias, "input", input)
    return input, weight, bias


def check_sizes(
    op: str,
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    """The sizes of a (N, C, H, W) input and a (O, C / groups, kh, kw) weight fit together.

    ``padding`` is (top, bottom, left, right).
    """
    integer(op, "groups", groups)
    shapes = f"(got input {tuple(input_size)}, weight {tuple(weight_size)}, groups={groups})"
    if min(weight_size) < 1:
        raise ValueError(f"{op}: weight must have no empty dimension {shapes}")
    if min(input_size[1:]) < 1:
        raise ValueError(f"{op}: input must have no empty dimension but the batch {shapes}")
    if weight_size[0] % groups:
        raise ValueError(f"{op}: groups must divide the output channels {shapes}")
    if input_size[1] != weight_size[1] * groups:
        raise ValueError(f"{op}: input must have weight.shape[1] * groups channels {shapes}")
    padded = [
        input_size[2] + padding[0] + padding[1],
        input_size[3] + padding[2] + padding[3],
    ]
    if max(padded) > _INT32_MAX:
        raise ValueError(
            f"{op}: the padded input must be at most {_INT32_MAX} high and wide "
            f"(got {max(padded)}, with padding={padding})"
        )
    if min(output_size(input_size, weight_size, stride, padding, dilation)) < 1:
        raise ValueError(
            f"{op}: the window must fit into the padded input (got input {tuple(input_size)}, "
            f"weight {tuple(weight_size)}, padding={padding}, dilation={dilation})"
        )


def check_bias(op: str, bias: Tensor | None, size: Sequence[int]) -> None:
    if bias is not None and tuple(bias.shape) != tuple(size):
        raise ValueError(f"{op}: bias must have shape {tuple(size)} (got {tuple(bias.shape)})")


def output_size(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> list[int]:
    top, bottom, left, right = padding
    return [
        (input_size[2] + top + bottom - dilation[0] * (weight_size[2] - 1) - 1) // stride[0] + 1,
        (input_size[3] + left + right - dilation[1] * (weight_size[3] - 1) - 1) // stride[1] + 1,
    ]
