"""Small conversions that several op pages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

IntOrPair = int | Sequence[int]


def pair(op: str, name: str, value: IntOrPair) -> list[int]:
    """An int or a sequence of one or two ints as ``[height, width]``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value, value]
    # torch.SymInt counts as an int: sizes are symbolic under torch.compile.
    if (
        isinstance(value, Sequence)
        and len(value) in (1, 2)
        and all(isinstance(v, int | torch.SymInt) and not isinstance(v, bool) for v in value)
    ):
        return [value[0], value[-1]]
    raise TypeError(f"{op}: {name} must be an int or a pair of ints (got {name}={value!r})")


def as_pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers, (height, width)."""
    height, width = values
    return int(height), int(width)


def batched(op: str, name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """``tensor`` as (N, C, H, W), and whether it came as (C, H, W)."""
    if tensor.dim() == 3:
        return tensor.unsqueeze(0), True
    if tensor.dim() != 4:
        raise ValueError(
            f"{op}: {name} must have shape (N, C, H, W) or (C, H, W) (got {tuple(tensor.shape)})"
        )
    return tensor, False


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """The format of an op's output: the input's, as the kernels see it."""
    if tensor.is_contiguous() or tensor.dim() != 4:
        return torch.contiguous_format
    _, c, h, w = tensor.shape
    n_stride, c_stride, h_stride, w_stride = tensor.stride()
    ordered = c_stride == 1 and w_stride >= c and h_stride >= w_stride * w
    if ordered and (tensor.shape[0] == 1 or n_stride >= h_stride * h):
        return torch.channels_last
    return torch.contiguous_format


def window_output_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Number of window positions along one axis, as torch counts them.

    With ``ceil_mode`` a last, partial window counts if it starts inside the input or its left
    padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    output = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (output - 1) * stride >= size + padding:
        output -= 1
    return output


def autocast(first: torch.Tensor, *others: torch.Tensor | None) -> tuple[Any, ...]:
    """The tensors in the dtype that autocast asks of an op like torch's convolution.

    Inside an autocast region of the first tensor's device floating point tensors take the region's
    dtype, all but float64, which autocast leaves alone; outside nothing changes. An op that knows
    one fixed dtype could use ``torch.library.register_autocast``; the region's is known here only.
    """
    tensors = (first, *others)
    device_type = first.device.type
    # Not torch.amp.is_autocast_available: torch 2.11 cannot trace it.
    if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )
