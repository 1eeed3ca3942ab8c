"""Convolution (cross-correlation, as everywhere in the field) with bias and an optional ReLU.

LeCun et al., Neural Computation 1989; groups: Krizhevsky, Sutskever & Hinton, NIPS 2012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import IntOrPair, batched_maps, memory_format, pair
from fastconv.ops._conv2d_algorithm import choose_algorithm, rounded_up, tf32_allowed
from fastconv.ops._convolution import check_bias, check_sizes, operands, output_size
from fastconv.ops._kernels import kernel

_conv2d_prepared = kernel("conv2d_prepared")
_conv2d = kernel("conv2d")
_conv2d_input_grad = kernel("conv2d_input_grad")
_conv2d_weight_grad = kernel("conv2d_weight_grad")
_conv2d_relu_grad = kernel("conv2d_relu_grad")

_OP = "conv2d"
_ACTIVATIONS = ("none", "relu")


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: str = "none",
    algorithm: str = "auto",
) -> Tensor:
    """``torch.nn.functional.conv2d``'s contract, and a ReLU in the same pass.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, any strides.
        weight: (O, C / groups, kh, kw), of the input's dtype.
        bias: (O,) or ``None``.
        stride: step of the window, in pixels.
        padding: zeros around the input, in pixels: an int, a pair (height, width), four ints (top,
            bottom, left, right), ``"valid"`` (none), or ``"same"`` (an output as large as the
            input, for stride 1; an odd number of zeros has the larger half at the bottom right).
        dilation: step between the taps of the window.
        groups: divides input and output channels; each group of outputs sees one of inputs.
        activation: ``"none"``, or ``"relu"`` for ``max(output, 0)``.
        algorithm: ``"fastconv"``: this package's kernels. ``"library"``: torch's (oneDNN, cuDNN).
            ``"auto"``: the faster one. On a GPU the first call with such a problem measures both,
            and later ones remember, while a compiled graph there takes the library's; on a CPU the
            choice rests on measurements of the package.
            ``"fastconv_wgmma"``: this package's with Hopper's warpgroup products, on a GPU of
            compute capability 9.0, for problems in 16 bits that go to tensor cores; others run as
            with ``"fastconv"``. No GPU has run them yet: ``"auto"`` measures them as well only
            under ``FASTCONV_WGMMA=1``, and if their first result agrees with the library's.

    Returns:
        (N, O, Ho, Wo) in the input's dtype; fastconv's kernels also keep its memory format. Under
        autocast, in autocast's dtype, as torch's convolution. All derivatives exist, second ones
        too. The kernels sum in float32 (float64 for float64) and round once; gradients do not
        depend on the number of threads.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value, the same
            for every algorithm.
    """
    window = stride, padding, dilation, groups
    return convolve(input, weight, bias, *window, activation=activation, algorithm=algorithm)


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrPair,
    padding: IntOrPair | str,
    dilation: IntOrPair,
    groups: int,
    *,
    activation: str,
    algorithm: str,
    filters: Callable[[], Tensor] | None = None,
) -> Tensor:
    """:func:`conv2d`; where ``filters`` is given and nothing learns, it may be called for what
    ``torch.ops.fastconv.conv2d_filters`` makes of the weight."""
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"{_OP}: activation must be 'none' or 'relu' (got activation={activation!r})"
        )
    x, unbatched = batched_maps(_OP, "input", input)
    shape = "(out_channels, in_channels / groups, height, width)"
    x, weight, bias = operands(_OP, x, weight, bias, 4, shape)
    stride, dilation = pair(_OP, "stride", stride, 1), pair(_OP, "dilation", dilation, 1)
    padding = _four_paddings(padding, weight.shape[2:], stride, dilation)
    check_sizes(_OP, x.shape, weight.shape, stride, padding, dilation, groups)
    check_bias(_OP, bias, weight.shape[:1])
    problem: tuple[Any, ...] = (x, weight, bias, stride, padding, dilation, groups)
    relu = activation == "relu"
    prepared = filters is not None and _takes_filters(problem[:3], stride, dilation)

    def run(name: str, tensors: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        if name == "fastconv" and prepared and filters is not None:
            return _conv2d_prepared(x, weight, filters(), bias, stride, padding, groups, relu)
        if name != "library":
            options = (stride, padding, dilation, groups, tf32_allowed(x), relu)
            return _conv2d(*tensors, *options, name == "fastconv_wgmma")
        return _library(*tensors, stride, padding, dilation, groups, relu)

    output = run(choose_algorithm(algorithm, problem, run, prepared), problem[:3])
    return output.squeeze(0) if unbatched else output


def conv2d_ref(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    """The definition, tap by tap; ``padding`` is (top, bottom, left, right)."""
    top, bottom, left, right = padding
    padded = F.pad(input, (left, right, top, bottom))
    ho, wo = output_size(input.shape, weight.shape, stride, padding, dilation)
    output = padded.new_zeros(())
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            y, x = r * dilation[0], s * dilation[1]
            seen = padded[
                :, :, y : y + ho * stride[0] : stride[0], x : x + wo * stride[1] : stride[1]
            ]
            seen = seen[:, :, :ho, :wo].unflatten(1, (groups, -1))
            tap = weight[:, :, r, s].unflatten(0, (groups, -1))
            output = output + torch.einsum("ngchw,goc->ngohw", seen, tap).flatten(1, 2)
    if bias is not None:
        output = output + bias[:, None, None]
    return output.relu() if relu else output


def _takes_filters(tensors, stride, dilation):
    input = tensors[0]
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return (
        not (learns or torch.compiler.is_compiling())
        and input.device.type == "cpu"
        and input.dtype == torch.float32
        and dilation == [1, 1]
        and max(stride) <= 16
    )


def _library(input, weight, bias, stride, padding, dilation, groups, relu):
    top, bottom, left, right = padding
    if top != bottom or left != right:
        input = F.pad(input, (left, right, top, bottom))
        top = left = 0
    try:
        output = F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RuntimeError(f"{_OP}: algorithm='library': {error}") from error
    return output.relu() if relu else output


def _four_paddings(padding, kernel_size, stride, dilation):
    if isinstance(padding, str):
        if padding == "valid":
            return [0, 0, 0, 0]
        if padding != "same":
            raise ValueError(
                f"{_OP}: padding must be 'same', 'valid' or integers (got padding={padding!r})"
            )
        if stride != [1, 1]:
            raise ValueError(f"{_OP}: padding='same' demands stride 1 (got stride={stride})")
        total = [d * max(k - 1, 0) for d, k in zip(dilation, kernel_size, strict=True)]
        pair(_OP, "padding", total)  # zeros in all, which may be too many
        return [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
    if isinstance(padding, tuple | list) and len(padding) == 4:
        return [*pair(_OP, "padding", padding[:2]), *pair(_OP, "padding", padding[2:])]
    height, width = pair(_OP, "padding", padding)
    return [height, height, width, width]


def _empty(like, size, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _is_channels_last(tensor):
    return memory_format(tensor) == torch.channels_last


@torch.library.register_fake("fastconv::conv2d")
def _fake(
    input, weight, bias, stride, padding, dilation, groups, allow_tf32, relu, warpgroups=False
):
    ho, wo = output_size(input.shape, weight.shape, stride, padding, dilation)
    return _empty(input, (input.shape[0], weight.shape[0], ho, wo), _is_channels_last(input))


@torch.library.register_fake("fastconv::conv2d_filters")
def _fake_filters(weight, stride, groups):
    maps, channels, *kernel = weight.shape
    terms = rounded_up(stride[0] * stride[1] * channels, 16)
    for k, s in zip(kernel, stride, strict=True):
        terms *= rounded_up(-(-k // s), 3) // 3  # blocks of three folded taps
    size = groups * 16 * (rounded_up(maps // groups, 32) * terms + 16)
    return weight.new_empty(size, dtype=torch.promote_types(weight.dtype, torch.float32))


@torch.library.register_fake("fastconv::conv2d_prepared")
def _fake_prepared(input, weight, filters, bias, stride, padding, groups, relu):
    return _fake(input, weight, bias, stride, padding, [1, 1], groups, False, relu)


@torch.library.register_fake("fastconv::conv2d_relu_grad")
def _fake_relu_grad(grad_output, output):
    grad = _empty(output, output.shape, _is_channels_last(output))
    return grad, output.new_empty(output.shape[1])


@torch.library.register_fake("fastconv::conv2d_input_grad")
def _fake_input_grad(
    grad_output,
    weight,
    input_size,
    stride,
    padding,
    dilation,
    groups,
    allow_tf32,
    channels_last,
    warpgroups=False,
):
    return _empty(grad_output, input_size, channels_last)


@torch.library.register_fake("fastconv::conv2d_weight_grad")
def _fake_weight_grad(
    grad_output,
    input,
    weight_size,
    stride,
    padding,
    dilation,
    groups,
    allow_tf32,
    channels_last,
    warpgroups=False,
):
    return _empty(grad_output, weight_size, channels_last)


# Convolution is linear in the input and in the weight, so the derivatives of each of the three ops
# are the other two: whatever order is asked for, it is one of these kernels that gives it.


def _setup_context(ctx, inputs, output):
    input, weight, _bias, *ctx.window, ctx.relu, ctx.warpgroups = inputs
    of_input, of_weight, *_ = ctx.needs_input_grad
    ctx.input_size, ctx.weight_size = input.shape, weight.shape
    ctx.formats = _is_channels_last(input), _is_channels_last(weight)
    ctx.save_for_backward(
        input if of_weight else None, weight if of_input else None, output if ctx.relu else None
    )


def _backward(ctx, grad_output):
    input, weight, output = ctx.saved_tensors
    of_input, of_weight, of_bias, *_ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if ctx.relu:
        grad_output, grad_bias = _through_relu(grad_output, output)
    if of_input:
        grad_input = _conv2d_input_grad(
            grad_output, weight, ctx.input_size, *ctx.window, ctx.formats[0], ctx.warpgroups
        )
    if of_weight:
        grad_weight = _conv2d_weight_grad(
            grad_output, input, ctx.weight_size, *ctx.window, ctx.formats[1], ctx.warpgroups
        )
    if of_bias and grad_bias is None:
        grad_bias = grad_output.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias if of_bias else None, *[None] * 7


def _through_relu(grad_output, output):
    """The gradient before the ReLU and, where it comes for nothing, that of the bias."""
    if grad_output.device.type == "cpu" and not torch.is_grad_enabled():
        return _conv2d_relu_grad(grad_output, output)
    return torch.ops.aten.threshold_backward(grad_output, output, 0), None


def _setup_context_of_grad(ctx, inputs, output):
    first, second, _size, *ctx.window, _channels_last, ctx.warpgroups = inputs
    ctx.save_for_backward(first, second)


def _backward_of_input_grad(ctx, grad):
    grad_output, weight = ctx.saved_tensors
    of_grad_output, of_weight, *_ = ctx.needs_input_grad
    grad_grad_output = grad_weight = None
    if of_grad_output:
        grad_grad_output = _conv2d(grad, weight, None, *ctx.window, False, ctx.warpgroups)
    if of_weight:
        grad_weight = _conv2d_weight_grad(
            grad_output, grad, weight.shape, *ctx.window, _is_channels_last(weight), ctx.warpgroups
        )
    return grad_grad_output, grad_weight, *[None] * 8


def _backward_of_weight_grad(ctx, grad):
    grad_output, input = ctx.saved_tensors
    of_grad_output, of_input, *_ = ctx.needs_input_grad
    grad_grad_output = grad_input = None
    if of_grad_output:
        grad_grad_output = _conv2d(input, grad, None, *ctx.window, False, ctx.warpgroups)
    if of_input:
        grad_input = _conv2d_input_grad(
            grad_output, grad, input.shape, *ctx.window, _is_channels_last(input), ctx.warpgroups
        )
    return grad_grad_output, grad_input, *[None] * 8


_conv2d.register_autograd(_backward, setup_context=_setup_context)
_conv2d_input_grad.register_autograd(_backward_of_input_grad, setup_context=_setup_context_of_grad)
_conv2d_weight_grad.register_autograd(
    _backward_of_weight_grad, setup_context=_setup_context_of_grad
)
