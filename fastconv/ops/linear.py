"""The fully connected layer, with bias and an optional ReLU.

A convolution whose window covers the whole image is the same product (Sermanet et al., ICLR 2014),
so this page has no kernel of its own: it calls :func:`fastconv.conv2d`'s, which read a large weight
once and in order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import check_floating, has_tangent
from fastconv.ops._convolution import check_bias, operands
from fastconv.ops._kernels import kernel

_conv2d = kernel("conv2d")

_OP = "linear"
_ACTIVATIONS = ("none", "relu")
_ALGORITHMS = ("auto", "fastconv", "library")
_LARGE = 2**18  # elements of a weight that our kernels, and their longer way there, are faster for


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """``torch.nn.functional.linear``'s contract, and a ReLU in the same pass.

    Args:
        input: (..., in_features), floating point.
        weight: (out_features, in_features), of the input's dtype.
        bias: (out_features,) or ``None``.
        activation: ``"none"``, or ``"relu"`` for ``max(output, 0)``.
        algorithm: ``"fastconv"``: this package's kernels. ``"library"``: torch's. ``"auto"``:
            this package's for large float32 weights on a CPU, torch's elsewhere.

    Returns:
        (..., out_features) in the input's dtype; under autocast, in autocast's dtype. All
        derivatives exist, second ones too.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{_OP}: activation must be 'none' or 'relu' (got activation={activation!r})"
        )
    if algorithm not in _ALGORITHMS:
        raise ValueError(
            f"{_OP}: algorithm must be 'auto', 'fastconv' or 'library' (got "
            f"algorithm={algorithm!r})"
        )
    check_floating(_OP, "input", input)
    x, weight, bias = operands(_OP, input, weight, bias, 2, "(out_features, in_features)")
    check_bias(_OP, bias, weight.shape[:1])
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{_OP}: input must have weight.shape[1] features in its last dimension (got input "
            f"{tuple(x.shape)}, weight {tuple(weight.shape)})"
        )
    if weight.numel() == 0:  # nothing to compute
        algorithm = "library"
    if algorithm == "library" or (algorithm == "auto" and not _ours_is_faster(x, weight, bias)):
        output = F.linear(x, weight, bias)
        return output.relu() if activation == "relu" else output
    images = x.reshape(-1, x.shape[-1], 1, 1)
    window = [1, 1], [0, 0, 0, 0], [1, 1], 1, False, activation == "relu", False
    output = _conv2d(images, weight[:, :, None, None], bias, *window)
    return output.reshape(*x.shape[:-1], weight.shape[0])


def _ours_is_faster(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == torch.float32
        and weight.numel() >= _LARGE
        and not torch.compiler.is_exporting()
        and not any(has_tangent(t) for t in (input, weight, bias) if t is not None)
    )
