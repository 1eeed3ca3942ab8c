"""Which convolution runs: this package's kernels, or the library's that torch brings."""

from __future__ import annotations

import torch
from torch import Tensor

_ALGORITHMS = ("auto", "fastconv", "library")
_DEVICES_WITH_KERNELS = ("cpu", "cuda")


def choose_algorithm(algorithm: str, input: Tensor, weight: Tensor, groups: int) -> str:
    """``"fastconv"`` or ``"library"`` for a checked problem; settles what ``"auto"`` means."""
    if algorithm not in _ALGORITHMS:
        raise ValueError(
            "conv2d: algorithm must be 'auto', 'fastconv' or 'library' "
            f"(got algorithm={algorithm!r})"
        )
    has_kernel = input.device.type in _DEVICES_WITH_KERNELS
    if algorithm == "fastconv" and not has_kernel:
        raise RuntimeError(
            f"conv2d: algorithm='fastconv' runs on {', '.join(_DEVICES_WITH_KERNELS)} "
            f"(got a tensor on {input.device})"
        )
    if algorithm != "auto":
        return algorithm
    return "library"


def tf32_allowed(input: Tensor) -> bool:
    """Whether torch's switches let a convolution round float32 to tf32: a GPU's matter alone."""
    if input.device.type != "cuda" or input.dtype != torch.float32:
        return False
    return torch.backends.cudnn.conv.fp32_precision == "tf32"
