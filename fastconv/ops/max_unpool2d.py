"""Unpooling: each pooled value goes back to where its switch says the maximum stood.

Zeiler & Fergus, arXiv:1311.2901, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastconv.ops._arguments import (
    IntOrPair,
    batched,
    batched_maps,
    check_device,
    memory_format,
    pair,
    pool_window,
    window_output_size,
)
from fastconv.ops._kernels import kernel

_max_unpool2d = kernel("max_unpool2d")
_max_unpool2d_backward = kernel("max_unpool2d_backward")

_MODES = ("accumulate", "overwrite")


def max_unpool2d(
    input: Tensor,
    switches: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    *,
    output_size: Sequence[int],
    mode: str = "accumulate",
) -> Tensor:
    """Put pooled values back through their switches; all other elements are 0.

    Args:
        input: pooled maps (N, C, Ho, Wo) or (C, Ho, Wo), floating point.
        switches: uint8 of the same shape, from :func:`fastconv.max_pool2d_with_switches`.
        kernel_size, stride, padding: those of the pooling.
        output_size: (H, W) of the map that was pooled; of a longer shape the last two count.
        mode: what happens where overlapping windows share a maximum. ``"accumulate"``: their
            values are added, which makes unpooling the exact adjoint of pooling.
            ``"overwrite"``: the last window in row order wins, as in
            ``torch.nn.functional.max_unpool2d``; the gradient then goes to that window alone.

    Returns:
        The unpooled maps (N, C, H, W) in ``input``'s dtype and memory format. A switch that
        points outside its window or into the padding puts its value nowhere.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "max_unpool2d"
    if mode not in _MODES:
        raise ValueError(f"{op}: mode must be 'accumulate' or 'overwrite' (got mode={mode!r})")
    x, unbatched = batched_maps(op, "input", input)
    sw, _ = batched(op, "switches", switches)
    window = pool_window(op, kernel_size, stride, padding, most=256)
    size = output_size[-2:] if isinstance(output_size, Sequence) else output_size
    size = pair(op, "output_size", size, 1)
    _check_switches(op, x, sw, window, size)
    output = _max_unpool2d(x, sw, *window, size, mode == "overwrite")
    return output.squeeze(0) if unbatched else output


def _check_switches(op, input, switches, window, output_size):
    if switches.dtype != torch.uint8:
        raise TypeError(
            f"{op}: switches must be uint8, as max_pool2d_with_switches returns them "
            f"(got {switches.dtype})"
        )
    check_device(op, "switches", switches, "input", input)
    if switches.shape != input.shape:
        raise ValueError(
            f"{op}: switches must have the shape of input (got {tuple(switches.shape)} and "
            f"{tuple(input.shape)})"
        )
    for pooled, size, k, s, p, d in zip(switches.shape[2:], output_size, *window, strict=True):
        least, most = (window_output_size(size, k, s, p, d, ceil) for ceil in (False, True))
        if pooled not in (least, most):
            raise ValueError(
                f"{op}: output_size must be a size that pools to the size of switches "
                f"(got output_size={size}, which pools to {least}{' or more' * (most > least)}, "
                f"and switches of size {pooled})"
            )


def max_unpool2d_ref(
    input: Tensor,
    switches: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_size: list[int],
    overwrite: bool,
) -> Tensor:
    """The definition, one pooled element at a time, in row order."""
    n, c, ho, wo = input.shape
    output = input.new_zeros(n, c, *output_size)
    for i, j in torch.cartesian_prod(torch.arange(n), torch.arange(c)).tolist():
        for ph in range(ho):
            for pw in range(wo):
                r, s = divmod(int(switches[i, j, ph, pw]), kernel_size[1])
                h = ph * stride[0] - padding[0] + r * dilation[0]
                w = pw * stride[1] - padding[1] + s * dilation[1]
                before = 0 if overwrite else output[i, j, h, w]
                output[i, j, h, w] = before + input[i, j, ph, pw]
    return output


@torch.library.register_fake("fastconv::max_unpool2d")
def _fake(input, switches, kernel_size, stride, padding, dilation, output_size, overwrite):
    return torch.empty(
        (input.shape[0], input.shape[1], *output_size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )


@torch.library.register_fake("fastconv::max_unpool2d_backward")
def _fake_backward(grad_output, switches, kernel_size, stride, padding, dilation, overwrite):
    return torch.empty_like(
        switches, dtype=grad_output.dtype, memory_format=memory_format(switches)
    )


def _setup_context(ctx, inputs, output):
    _, switches, *ctx.window, ctx.output_size, ctx.overwrite = inputs
    ctx.save_for_backward(switches)


def _backward(ctx, grad_output):
    (switches,) = ctx.saved_tensors
    grad_input = _max_unpool2d_backward(grad_output, switches, *ctx.window, ctx.overwrite)
    return grad_input, None, None, None, None, None, None, None


def _setup_context_of_backward(ctx, inputs, output):
    grad_output, switches, *ctx.window, ctx.overwrite = inputs
    ctx.output_size = grad_output.shape[2:]
    ctx.save_for_backward(switches)


def _backward_of_backward(ctx, grad):
    (switches,) = ctx.saved_tensors
    # The backward is linear in grad_output; the forward is its adjoint in both modes.
    grad_grad = _max_unpool2d(grad, switches, *ctx.window, ctx.output_size, ctx.overwrite)
    return grad_grad, None, None, None, None, None, None


_max_unpool2d.register_autograd(_backward, setup_context=_setup_context)
_max_unpool2d_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
