"""Maxout: the maximum over groups of feature maps.

Goodfellow, Warde-Farley, Mirza, Courville & Bengio, ICML 2013; overlapping groups as in
cuda-convnet2's cross-map pooling.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from fastconv.ops._arguments import check_bool, check_floating, integer, memory_format
from fastconv.ops._kernels import kernel

_maxout = kernel("maxout")
_maxout_backward = kernel("maxout_backward")


@overload
def maxout(
    input: Tensor,
    pool_size: int,
    stride: int | None = ...,
    *,
    return_switches: Literal[False] = ...,
) -> Tensor: ...
@overload
def maxout(
    input: Tensor, pool_size: int, stride: int | None = ..., *, return_switches: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@overload
def maxout(
    input: Tensor, pool_size: int, stride: int | None = ..., *, return_switches: bool
) -> Tensor | tuple[Tensor, Tensor]: ...
def maxout(
    input: Tensor, pool_size: int, stride: int | None = None, *, return_switches: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Maximum over groups of ``pool_size`` neighbouring maps, at each position.

    Args:
        input: (N, C, *), at least 2 dimensions, floating point. Memory in (N, *, C) order
            (channels_last) is as welcome as (N, C, *).
        pool_size: maps in a group, 1 to 256.
        stride: maps from one group to the next, 1 to ``pool_size``; ``None``: ``pool_size``, groups
            that do not overlap. There are ``(C - pool_size) // stride + 1`` groups. They must
            cover all maps, as in cuda-convnet2: the last group has to end at map ``C``.
        return_switches: also return which map of its group was the largest.

    Returns:
        (N, groups, *) in the input's dtype and memory order; with ``return_switches`` a pair of
        that and the switches, uint8 of the same shape, positions inside the group. The first of
        equal maxima wins, and a NaN beats every number. The gradient goes to the recorded map.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "maxout"
    stride = pool_size if stride is None else stride
    check_floating(op, "input", input)
    pool_size = integer(op, "pool_size", pool_size, least=-(2**63))
    stride = integer(op, "stride", stride, least=-(2**63))
    check_bool(op, "return_switches", return_switches)
    if input.dim() < 2:
        raise ValueError(
            f"{op}: input must have shape (N, C, *), at least 2 dimensions "
            f"(got {tuple(input.shape)})"
        )
    _check_groups(op, input.shape[1], pool_size, stride)
    # The kernels know (N, C, H, W); all positions may as well stand in one row.
    x = input if input.dim() > 2 else input.unsqueeze(2)
    x = x if x.dim() == 4 else x.flatten(2).unsqueeze(2)
    output, switches = _maxout(x, pool_size, stride)
    if input.dim() != 4:
        shape = (input.shape[0], output.shape[1], *input.shape[2:])
        output, switches = output.view(shape), switches.view(shape)
    return (output, switches) if return_switches else output


def _check_groups(op, maps, pool_size, stride):
    if not 1 <= pool_size <= 256:
        raise ValueError(
            f"{op}: pool_size must be from 1 to 256, because a switch is one byte "
            f"(got pool_size={pool_size})"
        )
    if pool_size > maps:
        raise ValueError(
            f"{op}: pool_size must be at most the number of maps "
            f"(got pool_size={pool_size} and {maps} maps)"
        )
    if not 1 <= stride <= pool_size:
        raise ValueError(
            f"{op}: stride must be from 1 to pool_size, or maps between groups are lost "
            f"(got stride={stride}, pool_size={pool_size})"
        )
    if (maps - pool_size) % stride:
        raise ValueError(
            f"{op}: the last group must end at the last map (got {maps} maps, "
            f"pool_size={pool_size}, stride={stride}: {(maps - pool_size) % stride} maps are left "
            "over)"
        )


def maxout_ref(input: Tensor, pool_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """The definition for (N, C, *): maxima and switches, one group at a time."""
    values, switches = [], []
    for first in range(0, input.shape[1] - pool_size + 1, stride):
        group = input[:, first : first + pool_size]
        value = group.amax(1)
        nan = group.isnan()
        position = torch.arange(pool_size).view(-1, *[1] * (input.dim() - 2))
        last_nan = torch.where(nan, position, -1).amax(1)
        values.append(value)
        switches.append(
            torch.where(nan.any(1), last_nan, (group == value[:, None]).long().argmax(1))
        )
    return torch.stack(values, 1), torch.stack(switches, 1).to(torch.uint8)


@torch.library.register_fake("fastconv::maxout")
def _fake(input, pool_size, stride):
    n, c, h, w = input.shape
    output = torch.empty(
        (n, (c - pool_size) // stride + 1, h, w),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    return output, torch.empty_like(output, dtype=torch.uint8)


@torch.library.register_fake("fastconv::maxout_backward")
def _fake_backward(grad_output, switches, maps, channels_last, pool_size, stride):
    n, _, h, w = switches.shape
    return torch.empty(
        (n, maps, h, w),
        dtype=grad_output.dtype,
        device=grad_output.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _setup_context(ctx, inputs, output):
    input, *ctx.groups = inputs
    _, switches = output
    ctx.maps = input.shape[1]
    ctx.channels_last = memory_format(input) == torch.channels_last
    ctx.save_for_backward(switches)
    ctx.mark_non_differentiable(switches)


def _backward(ctx, grad_output, _grad_switches):
    (switches,) = ctx.saved_tensors
    grad_input = _maxout_backward(grad_output, switches, ctx.maps, ctx.channels_last, *ctx.groups)
    return grad_input, None, None


def _setup_context_of_backward(ctx, inputs, output):
    _, switches, _, _, _, ctx.stride = inputs
    ctx.save_for_backward(switches)


def _backward_of_backward(ctx, grad):
    (switches,) = ctx.saved_tensors
    first = torch.arange(switches.shape[1], device=grad.device) * ctx.stride
    chosen = switches.long() + first[:, None, None]
    return grad.gather(1, chosen), None, None, None, None, None


_maxout.register_autograd(_backward, setup_context=_setup_context)
_maxout_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
