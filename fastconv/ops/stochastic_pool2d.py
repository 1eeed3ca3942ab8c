"""Stochastic pooling: an element of each window is drawn, large ones more often.

Zeiler & Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks",
ICLR 2013.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv._library import _C
from fastconv.ops._arguments import (
    IntOrPair,
    batched_maps,
    check_bool,
    check_generator,
    memory_format,
    pool_window,
    pooled_size,
    window_output_size,
)
from fastconv.ops._kernels import kernel
from fastconv.ops._random import draw_seed

_stochastic_pool2d = kernel("stochastic_pool2d")
_stochastic_pool2d_mean = kernel("stochastic_pool2d_mean")
_max_unpool2d = kernel("max_unpool2d")
_stochastic_pool2d_mean_backward = kernel("stochastic_pool2d_mean_backward")


@overload
def stochastic_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    training: bool = ...,
    return_switches: Literal[False] = ...,
    generator: torch.Generator | None = ...,
) -> Tensor: ...
@overload
def stochastic_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    training: bool = ...,
    return_switches: Literal[True],
    generator: torch.Generator | None = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def stochastic_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    training: bool = ...,
    return_switches: bool,
    generator: torch.Generator | None = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
def stochastic_pool2d(
    input: Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    *,
    training: bool = True,
    return_switches: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw one element of each window (training), or take the mean of all draws (test time).

    Element i of a window is drawn with probability ``p_i = a_i / sum a``, where ``a`` is the input
    with everything below 0 counted as 0: what is not positive is never drawn, and neither is
    padding. The output is the drawn element, and the gradient goes to it. At test time the output
    is the mean ``sum p_i a_i = sum a^2 / sum a``, which has a gradient of its own.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, either memory format; meant to follow a
            ReLU.
        kernel_size: window height and width, in elements; at most 256 together.
        stride: step of the window; ``None``: ``kernel_size``.
        padding: elements without probability on both sides, at most half of ``kernel_size``.
        ceil_mode: also count a last window that is cut off by the border.
        training: draw; ``False``: the mean of all draws.
        return_switches: also return which element was drawn; needs ``training=True``.
        generator: where the randomness comes from; ``None``: torch's default generator, which
            ``torch.manual_seed`` governs. One number is drawn from it, the rest is Philox: the
            same draws in both memory formats and for any number of threads.

    Returns:
        The pooled maps (N, C, Ho, Wo) in the input's dtype and memory format; with
        ``return_switches`` a pair of them and the switches, uint8 of the same shape, positions
        ``row * kernel_width + column`` that :func:`fastconv.max_unpool2d` takes. Sums are taken
        in float32 (float64 for float64), and probabilities are exact to 2**-24.

        A window without a positive element gives 0 and passes no gradient; its switch is its
        first element. A NaN in the window gives NaN, and the first NaN is its switch. Otherwise
        an infinite element has all the probability (the first one, if there are several).

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "stochastic_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    *window, dilation = pool_window(op, kernel_size, stride, padding, most=256)
    for name, value in (
        ("ceil_mode", ceil_mode),
        ("training", training),
        ("return_switches", return_switches),
    ):
        check_bool(op, name, value)
    check_generator(op, generator)
    pooled_size(
        op, x, window[0], window[1], window[2], dilation, ceil_mode
    )  # before a number is drawn for nothing
    if training:
        seed = draw_seed(x, generator)
        output, switches = _stochastic_pool2d(x, seed, *window, ceil_mode)
    elif return_switches:
        raise ValueError(
            f"{op}: return_switches=True needs training=True, for at test time nothing is drawn "
            "(got training=False)"
        )
    else:
        output = _stochastic_pool2d_mean(x, *window, ceil_mode)
    output = output.squeeze(0) if unbatched else output
    if not return_switches:
        return output
    return output, switches.squeeze(0) if unbatched else switches


def stochastic_pool2d_ref(
    input: Tensor,
    seed: int,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """The definition for finite (N, C, H, W), one window at a time: draws and switches.

    Sums run in the kernels' order, so that this gives their very bits.
    """
    n, c, h, w = input.shape
    ho, wo = _output_size((h, w), kernel_size, stride, padding, ceil_mode)
    a = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32).clamp_min(0)
    output = torch.zeros(n, c, ho, wo, dtype=a.dtype)
    switches = torch.zeros(n, c, ho, wo, dtype=torch.uint8)
    for ph in range(ho):
        for pw in range(wo):
            rows, columns = ph * stride[0] - padding[0], pw * stride[1] - padding[1]
            window = {
                r * kernel_size[1] + s: a[:, :, rows + r, columns + s]
                for r in range(kernel_size[0])
                for s in range(kernel_size[1])
                if 0 <= rows + r < h and 0 <= columns + s < w
            }
            total = sum(window.values())
            index = (torch.arange(n * c) * ho + ph) * wo + pw
            words = [_C.philox4x32(seed, counter)[0] for counter in index.tolist()]
            uniform = torch.tensor([word >> 8 for word in words], dtype=a.dtype) / 2**24
            threshold = uniform.view(n, c) * total
            before = torch.zeros(n, c, dtype=a.dtype)
            switches[:, :, ph, pw] = min(window)
            for position, value in window.items():
                reached = (value > 0) & (before <= threshold)
                output[:, :, ph, pw][reached] = value[reached]
                switches[:, :, ph, pw][reached] = position
                before = before + value
    return output.to(input.dtype), switches


def stochastic_pool2d_mean_ref(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
) -> Tensor:
    """The test-time formula for finite (N, C, H, W), in plain torch."""
    size = input.shape[2:]
    output_size = _output_size(size, kernel_size, stride, padding, ceil_mode)
    after = [  # so that the last window is whole, and no other one comes after it
        max(0, (output_size[axis] - 1) * stride[axis] + kernel_size[axis] - padding[axis] - length)
        for axis, length in enumerate(size)
    ]
    a = F.pad(input.relu(), (padding[1], after[1], padding[0], after[0]))
    windows = a.unfold(2, kernel_size[0], stride[0]).unfold(3, kernel_size[1], stride[1])
    windows = windows[:, :, : output_size[0], : output_size[1]].flatten(4)
    total = windows.sum(-1)
    return windows.square().sum(-1) / torch.where(total > 0, total, 1)


def _output_size(size, kernel_size, stride, padding, ceil_mode):
    return [
        window_output_size(size[axis], kernel_size[axis], stride[axis], padding[axis], 1, ceil_mode)
        for axis in (0, 1)
    ]


def _empty_output(input, kernel_size, stride, padding, ceil_mode):
    window = kernel_size, stride, padding, [1, 1]
    return torch.empty(
        (*input.shape[:2], *pooled_size("stochastic_pool2d", input, *window, ceil_mode)),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )


@torch.library.register_fake("fastconv::stochastic_pool2d")
def _fake(input, seed, *window):
    output = _empty_output(input, *window)
    return output, torch.empty_like(output, dtype=torch.uint8)


torch.library.register_fake("fastconv::stochastic_pool2d_mean")(_empty_output)


@torch.library.register_fake("fastconv::stochastic_pool2d_mean_backward")
def _fake_mean_backward(grad_output, input, *window):
    return torch.empty_like(input, memory_format=memory_format(input))


def _setup_context(ctx, inputs, output):
    input, _seed, *ctx.window, _ceil_mode = inputs
    ctx.input_size = input.shape[2:]
    ctx.save_for_backward(*output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_output, _grad_switches):
    output, switches = ctx.saved_tensors
    # Where nothing was drawn the output is 0 whatever the input: its switch must lead nowhere.
    grad_output = grad_output.masked_fill(output == 0, 0)
    grad_input = _max_unpool2d(grad_output, switches, *ctx.window, [1, 1], ctx.input_size, False)
    return grad_input, None, None, None, None, None


def _setup_context_of_mean(ctx, inputs, output):
    input, *ctx.window = inputs
    ctx.save_for_backward(input)


def _backward_of_mean(ctx, grad_output):
    (input,) = ctx.saved_tensors
    grad_input = _stochastic_pool2d_mean_backward(grad_output, input, *ctx.window)
    return grad_input, None, None, None, None


def _setup_context_of_mean_backward(ctx, inputs, output):
    grad_output, input, *ctx.window = inputs
    ctx.save_for_backward(grad_output, input)


def _backward_of_mean_backward(ctx, grad):
    def mean_backward(grad_output, input):
        vjp = torch.func.vjp(lambda x: stochastic_pool2d_mean_ref(x, *ctx.window), input)[1]
        return vjp(grad_output)[0]

    # Second derivatives are rare: plain torch gives them.
    vjp = torch.func.vjp(mean_backward, *ctx.saved_tensors)[1]
    return *vjp(grad), None, None, None, None


_stochastic_pool2d.register_autograd(_backward, setup_context=_setup_context)
_stochastic_pool2d_mean.register_autograd(_backward_of_mean, setup_context=_setup_context_of_mean)
_stochastic_pool2d_mean_backward.register_autograd(
    _backward_of_mean_backward,
    setup_context=_setup_context_of_mean_backward,
)
