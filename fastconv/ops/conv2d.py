"""Two-dimensional convolution (cross-correlation, as everywhere in the field)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    *,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """``torch.nn.functional.conv2d`` and an optional ReLU, through torch's own algorithm."""
    if activation not in ("none", "relu"):
        raise ValueError(f"conv2d: activation must be 'none' or 'relu' (got {activation!r})")
    if algorithm not in ("auto", "library"):
        raise ValueError(f"conv2d: algorithm must be 'auto' or 'library' (got {algorithm!r})")
    output = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return output.relu() if activation == "relu" else output
