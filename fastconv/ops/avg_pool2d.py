"""Average pooling, and plain sums over the same windows.

LeCun, Bottou, Bengio & Haffner, Proceedings of the IEEE 1998, section II (subsampling).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastconv.ops._arguments import (
    IntOrPair,
    batched_maps,
    check_bool,
    integer,
    memory_format,
    pool_window,
    pooled_size,
    window_output_size,
)
from fastconv.ops._kernels import kernel

_avg_pool2d = kernel("avg_pool2d")
_sum_pool2d = kernel("sum_pool2d")
_avg_pool2d_backward = kernel("avg_pool2d_backward")


def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over sliding windows: ``torch.nn.functional.avg_pool2d``'s contract.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, either memory format.
        kernel_size: window height and width, in elements.
        stride: step of the window; ``None``: ``kernel_size``.
        padding: implicit zeros on both sides, at most half of ``kernel_size``.
        ceil_mode: also count a last window that is cut off by the border.
        count_include_pad: divide by all elements of the window that lie in the padded input;
            ``False``: by those that lie in the input itself.
        divisor_override: divide by this number instead; not 0.

    Returns:
        The pooled maps (N, C, Ho, Wo) in the input's dtype and memory format. Sums are taken in
        float32 (float64 for float64). Autocast leaves the dtype as it is.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "avg_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    *window, _dilation = pool_window(op, kernel_size, stride, padding)
    check_bool(op, "ceil_mode", ceil_mode)
    check_bool(op, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        divisor_override = integer(op, "divisor_override", divisor_override, least=-(2**63))
        if divisor_override == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")
    output = _avg_pool2d(x, *window, ceil_mode, count_include_pad, divisor_override)
    return output.squeeze(0) if unbatched else output


def sum_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
) -> Tensor:
    """Sum over sliding windows: :func:`avg_pool2d` that divides by nothing.

    Arguments, output and errors are :func:`avg_pool2d`'s; padding adds zeros.
    """
    op = "sum_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    *window, _dilation = pool_window(op, kernel_size, stride, padding)
    check_bool(op, "ceil_mode", ceil_mode)
    output = _sum_pool2d(x, *window, ceil_mode)
    return output.squeeze(0) if unbatched else output


def avg_pool2d_ref(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The definition, one window at a time, for a (N, C, H, W) input."""
    n, c, *size = input.shape
    ho, wo = _output_size(size, kernel_size, stride, padding, ceil_mode)
    output = input.new_empty(n, c, ho, wo)
    for ph in range(ho):
        for pw in range(wo):
            inside, counted = [], 1
            for axis, o in enumerate((ph, pw)):
                start = o * stride[axis] - padding[axis]
                end = min(start + kernel_size[axis], size[axis] + padding[axis])
                inside.append(slice(max(start, 0), min(end, size[axis])))
                counted *= end - start
            window = input[:, :, inside[0], inside[1]].flatten(2)
            divisor = divisor_override or (counted if count_include_pad else window.shape[-1])
            output[:, :, ph, pw] = window.sum(-1) / divisor
    return output


def _output_size(size, kernel_size, stride, padding, ceil_mode):
    return [
        window_output_size(size[axis], kernel_size[axis], stride[axis], padding[axis], 1, ceil_mode)
        for axis in (0, 1)
    ]


def _empty_output(op, input, kernel_size, stride, padding, ceil_mode):
    size = pooled_size(op, input, kernel_size, stride, padding, [1, 1], ceil_mode)
    return torch.empty(
        (*input.shape[:2], *size),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )


@torch.library.register_fake("fastconv::avg_pool2d")
def _fake(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    return _empty_output("avg_pool2d", input, kernel_size, stride, padding, ceil_mode)


@torch.library.register_fake("fastconv::sum_pool2d")
def _fake_sum(input, kernel_size, stride, padding, ceil_mode):
    return _empty_output("sum_pool2d", input, kernel_size, stride, padding, ceil_mode)


@torch.library.register_fake("fastconv::avg_pool2d_backward")
def _fake_backward(grad_output, input_size, channels_last, *_window_and_divisor):
    return torch.empty(
        (*grad_output.shape[:2], *input_size),
        dtype=grad_output.dtype,
        device=grad_output.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def _setup_context(ctx, inputs, output):
    input, *ctx.arguments = inputs
    ctx.input_size = input.shape[2:]
    ctx.channels_last = memory_format(input) == torch.channels_last


def _backward(ctx, grad_output):
    grad_input = _avg_pool2d_backward(
        grad_output, ctx.input_size, ctx.channels_last, *ctx.arguments
    )
    return grad_input, *[None] * len(ctx.arguments)


def _setup_context_of_sum(ctx, inputs, output):
    _setup_context(ctx, inputs, output)
    ctx.arguments += [True, 1]  # count_include_pad, divisor_override


def _backward_of_sum(ctx, grad_output):
    return _backward(ctx, grad_output)[:5]


def _setup_context_of_backward(ctx, inputs, output):
    _, _, _, *ctx.arguments = inputs


def _backward_of_backward(ctx, grad):
    # Pooling is linear: the adjoint of its adjoint is pooling.
    grad_grad = _avg_pool2d(grad, *ctx.arguments)
    return grad_grad, None, None, *[None] * len(ctx.arguments)


_avg_pool2d.register_autograd(_backward, setup_context=_setup_context)
_sum_pool2d.register_autograd(_backward_of_sum, setup_context=_setup_context_of_sum)
_avg_pool2d_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
