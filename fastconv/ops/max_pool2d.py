"""Max pooling, overlapping or not, that records where each maximum stood.

Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.4 (overlapping pooling); Zeiler & Fergus,
arXiv:1311.2901, section 2.1 (switches).
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import (
    IntOrPair,
    batched_maps,
    check_bool,
    memory_format,
    pool_window,
    pooled_size,
    window_output_size,
)
from fastconv.ops._kernels import kernel, may_learn

_max_pool2d = kernel("max_pool2d")
_max_unpool2d = kernel("max_unpool2d")


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    dilation: IntOrPair = ...,
    ceil_mode: bool = ...,
    return_indices: Literal[False] = ...,
) -> Tensor: ...
@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    dilation: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    dilation: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    return_indices: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...
def max_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Maximum over sliding windows: ``torch.nn.functional.max_pool2d``'s contract.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, either memory format.
        kernel_size: window height and width, in elements; at most 256 together.
        stride: step of the window; ``None``: ``kernel_size``.
        padding: implicit -inf on both sides, at most half of ``kernel_size``.
        dilation: step between the elements of a window.
        ceil_mode: also count a last window that is cut off by the border.
        return_indices: also return each maximum's int64 index in its H x W map, as torch does.

    Returns:
        The pooled maps (N, C, Ho, Wo) in the input's dtype and memory format; with
        ``return_indices`` a pair of them and the indices. The first of equal maxima wins, and a
        NaN beats every number. The gradient goes to the recorded element; where none can come
        back, nothing is recorded. A window without any element, as dilation can leave one in the
        padding of small maps, gives -inf.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "max_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    window = pool_window(op, kernel_size, stride, padding, dilation, most=256)
    check_bool(op, "ceil_mode", ceil_mode)
    check_bool(op, "return_indices", return_indices)
    output, switches = _max_pool2d(x, *window, ceil_mode, return_indices or may_learn(x))
    if not return_indices:
        return output.squeeze(0) if unbatched else output
    indices = switches_to_indices(switches, x.shape[-1], *window)
    return (output.squeeze(0), indices.squeeze(0)) if unbatched else (output, indices)


def max_pool2d_with_switches(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max pooling and its switches, a byte each, for :func:`fastconv.max_unpool2d`.

    A switch is the position of the maximum inside its window, ``row * kernel_width + column``.
    Arguments, output and errors are :func:`max_pool2d`'s.

    Returns:
        The pooled maps (N, C, Ho, Wo), and the switches, uint8 of the same shape.
    """
    op = "max_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    window = pool_window(op, kernel_size, stride, padding, most=256)
    check_bool(op, "ceil_mode", ceil_mode)
    output, switches = _max_pool2d(x, *window, ceil_mode, True)
    return (output.squeeze(0), switches.squeeze(0)) if unbatched else (output, switches)


def max_pool2d_ref(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """The definition, one window at a time: pooled maps and switches of a (N, C, H, W) input."""
    (kh, kw), (sh, sw), (dh, dw) = kernel_size, stride, dilation
    n, c, h, w = input.shape
    ho = window_output_size(h, kh, sh, padding[0], dh, ceil_mode)
    wo = window_output_size(w, kw, sw, padding[1], dw, ceil_mode)
    # Room on the right for a last window that ceil_mode lets hang over the border.
    padded = F.pad(input, (padding[1], kw * dw + sw, padding[0], kh * dh + sh), value=-torch.inf)
    real = F.pad(torch.ones(h, w), (padding[1], kw * dw + sw, padding[0], kh * dh + sh)) > 0
    output = input.new_empty(n, c, ho, wo)
    switches = torch.empty(n, c, ho, wo, dtype=torch.uint8)
    for ph in range(ho):
        for pw in range(wo):
            rows = slice(ph * sh, ph * sh + dh * (kh - 1) + 1, dh)
            columns = slice(pw * sw, pw * sw + dw * (kw - 1) + 1, dw)
            window = padded[:, :, rows, columns].flatten(2)
            inside = real[rows, columns].flatten()
            value = window.amax(-1)
            nan = window.isnan()
            position = torch.arange(kh * kw)
            first = ((window == value[..., None]) & inside).long().argmax(-1)
            last_nan = torch.where(nan, position, -1).amax(-1)
            output[:, :, ph, pw] = value
            switches[:, :, ph, pw] = torch.where(nan.any(-1), last_nan, first).to(torch.uint8)
    return output, switches


def switches_to_indices(
    switches: Tensor,
    width: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """torch's int64 indices into maps of ``width`` columns, from switches (..., Ho, Wo)."""
    ho, wo = switches.shape[-2:]
    position = switches.long()
    row = torch.arange(ho, device=switches.device)[:, None] * stride[0] - padding[0]
    column = torch.arange(wo, device=switches.device) * stride[1] - padding[1]
    row = row + position // kernel_size[1] * dilation[0]
    column = column + position % kernel_size[1] * dilation[1]
    return row * width + column


@torch.library.register_fake("fastconv::max_pool2d")
def _fake(input, kernel_size, stride, padding, dilation, ceil_mode, with_switches=True):
    window = kernel_size, stride, padding, dilation
    output = torch.empty(
        (*input.shape[:2], *pooled_size("max_pool2d", input, *window, ceil_mode)),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    return output, torch.empty_like(output if with_switches else output[:0], dtype=torch.uint8)


def _setup_context(ctx, inputs, output):
    input, *ctx.window, _ceil_mode, _with_switches = inputs
    _, switches = output
    ctx.output_size = input.shape[2:]
    ctx.save_for_backward(switches)
    ctx.mark_non_differentiable(switches)


def _backward(ctx, grad_output, _grad_switches):
    (switches,) = ctx.saved_tensors
    # Unpooling that accumulates is the exact adjoint of pooling. It answers in the format of its
    # input, and the gradient belongs in the format of what was pooled, whatever came back.
    grad_output = grad_output.contiguous(memory_format=memory_format(switches))
    grad_input = _max_unpool2d(grad_output, switches, *ctx.window, ctx.output_size, False)
    return grad_input, *[None] * 6


_max_pool2d.register_autograd(_backward, setup_context=_setup_context)
