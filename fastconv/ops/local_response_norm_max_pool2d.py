"""Local response normalisation and the max pool behind it, in one pass over memory.

Krizhevsky, Sutskever & Hinton, NIPS 2012, sections 3.3 and 3.4: the pair stands twice in AlexNet.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from fastconv.ops._arguments import (
    IntOrPair,
    batched_maps,
    check_bool,
    integer,
    memory_format,
    number,
    pool_window,
    pooled_size,
)
from fastconv.ops._kernels import kernel, may_learn
from fastconv.ops.local_response_norm import (
    _ALPHA_MODES,
    local_response_norm_backward_ref,
    local_response_norm_ref,
)
from fastconv.ops.max_pool2d import max_pool2d_ref
from fastconv.ops.max_unpool2d import max_unpool2d_ref

_local_response_norm_max_pool2d = kernel("local_response_norm_max_pool2d")
_local_response_norm_max_pool2d_backward = kernel("local_response_norm_max_pool2d_backward")
_max_unpool2d = kernel("max_unpool2d")
_max_unpool2d_backward = kernel("max_unpool2d_backward")


@overload
def local_response_norm_max_pool2d(
    input: Tensor,
    size: int,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    dilation: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    alpha: float = ...,
    beta: float = ...,
    k: float = ...,
    alpha_mode: str = ...,
    return_switches: Literal[False] = ...,
) -> Tensor: ...
@overload
def local_response_norm_max_pool2d(
    input: Tensor,
    size: int,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = ...,
    padding: IntOrPair = ...,
    dilation: IntOrPair = ...,
    ceil_mode: bool = ...,
    *,
    alpha: float = ...,
    beta: float = ...,
    k: float = ...,
    alpha_mode: str = ...,
    return_switches: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def local_response_norm_max_pool2d(
    input: Tensor,
    size: int,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    alpha_mode: str = "mean",
    return_switches: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``max_pool2d(local_response_norm(input, size), kernel_size)``; the map between never exists.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, either memory format.
        size: width of the normalisation's window, in maps.
        kernel_size, stride, padding, dilation, ceil_mode: as for :func:`fastconv.max_pool2d`.
        alpha, beta, k, alpha_mode: as for :func:`fastconv.local_response_norm`, whose windows run
            across maps here.
        return_switches: also return where each maximum stood, as
            :func:`fastconv.max_pool2d_with_switches` does.

    Returns:
        The pooled responses (N, C, Ho, Wo) in the input's dtype and memory format; with
        ``return_switches`` a pair of them and the switches, uint8 of the same shape. Normalised
        values are rounded to the input's dtype before they are compared, and so is the gradient
        between the two: on the CPU outputs and gradients are those of the two functions to the
        bit, on a GPU up to how each kernel was compiled.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "local_response_norm_max_pool2d"
    x, unbatched = batched_maps(op, "input", input)
    size = integer(op, "size", size)
    window = pool_window(op, kernel_size, stride, padding, dilation, most=256)
    check_bool(op, "ceil_mode", ceil_mode)
    alpha, beta, k = number(op, "alpha", alpha), number(op, "beta", beta), number(op, "k", k)
    if alpha_mode not in _ALPHA_MODES:
        raise ValueError(
            f"{op}: alpha_mode must be 'mean' or 'sum' (got alpha_mode={alpha_mode!r})"
        )
    check_bool(op, "return_switches", return_switches)
    if alpha_mode == "mean":
        alpha = alpha / size
    output, switches = _local_response_norm_max_pool2d(
        x, size, alpha, beta, k, *window, ceil_mode, return_switches or may_learn(x)
    )
    if unbatched:
        output, switches = output.squeeze(0), switches.squeeze(0)
    return (output, switches) if return_switches else output


def local_response_norm_max_pool2d_ref(
    input: Tensor,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """The definition for (N, C, H, W) in plain torch; ``alpha`` weighs the sum of squares."""
    normalised = local_response_norm_ref(input, size, alpha, beta, k, False)
    return max_pool2d_ref(normalised, kernel_size, stride, padding, dilation, ceil_mode)


def local_response_norm_max_pool2d_backward_ref(
    grad_output: Tensor,
    input: Tensor,
    switches: Tensor,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """The gradient of :func:`local_response_norm_max_pool2d_ref`, written out."""
    window = kernel_size, stride, padding, dilation
    unpooled = max_unpool2d_ref(grad_output, switches, *window, list(input.shape[2:]), False)
    return local_response_norm_backward_ref(unpooled, input, size, alpha, beta, k, False)


@torch.library.register_fake("fastconv::local_response_norm_max_pool2d")
def _fake(
    input, size, alpha, beta, k, kernel_size, stride, padding, dilation, ceil_mode,
    with_switches=True,
):  # fmt: skip
    window = kernel_size, stride, padding, dilation
    output = torch.empty(
        (
            *input.shape[:2],
            *pooled_size("local_response_norm_max_pool2d", input, *window, ceil_mode),
        ),
        dtype=input.dtype,
        device=input.device,
        memory_format=memory_format(input),
    )
    return output, torch.empty_like(output if with_switches else output[:0], dtype=torch.uint8)


@torch.library.register_fake("fastconv::local_response_norm_max_pool2d_backward")
def _fake_backward(
    grad_output, input, switches, size, alpha, beta, k, kernel_size, stride, padding, dilation
):
    return torch.empty_like(input, memory_format=memory_format(input))


def _setup_context(ctx, inputs, output):
    input, *ctx.constants, _ceil_mode, _with_switches = inputs
    _, switches = output
    ctx.save_for_backward(input, switches)
    ctx.mark_non_differentiable(switches)


def _backward(ctx, grad_output, _grad_switches):
    grad_input = _local_response_norm_max_pool2d_backward(
        grad_output, *ctx.saved_tensors, *ctx.constants
    )
    return grad_input, *[None] * 10


def _setup_context_of_backward(ctx, inputs, output):
    grad_output, input, switches, *ctx.constants = inputs
    ctx.save_for_backward(grad_output, input, switches)


def _backward_of_backward(ctx, grad):
    grad_output, input, switches = ctx.saved_tensors
    size, alpha, beta, k, *window = ctx.constants
    unpooled = _max_unpool2d(grad_output, switches, *window, input.shape[2:], False)

    def backward(unpooled, input):
        return local_response_norm_backward_ref(unpooled, input, size, alpha, beta, k, False)

    # Second derivatives are rare: plain torch gives them, and unpooling is linear.
    grad_unpooled, grad_input = torch.func.vjp(backward, unpooled, input)[1](grad)
    grad_grad = _max_unpool2d_backward(grad_unpooled, switches, *window, False)
    return grad_grad, grad_input, *[None] * 9


_local_response_norm_max_pool2d.register_autograd(_backward, setup_context=_setup_context)
_local_response_norm_max_pool2d_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
