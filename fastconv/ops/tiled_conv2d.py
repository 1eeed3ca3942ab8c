"""Tiled convolution: several sets of filters that take turns, pixel by pixel.

Le, Ngiam, Chen, Chia, Koh & Ng, "Tiled convolutional neural networks", NIPS 2010.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import IntOrPair, as_pair, batched_maps, memory_format, pair
from fastconv.ops._convolution import check_bias, check_sizes, operands
from fastconv.ops._kernels import kernel

_tiled_conv2d = kernel("tiled_conv2d")
_tiled_conv2d_input_grad = kernel("tiled_conv2d_input_grad")
_tiled_conv2d_weight_grad = kernel("tiled_conv2d_weight_grad")

_OP = "tiled_conv2d"


def tiled_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    groups: int = 1,
) -> Tensor:
    """Convolution whose weights repeat with a period: output (y, x) uses tile (y % Th, x % Tw).

    With one tile this is ``conv2d``; with as many tiles as there are output pixels every pixel has
    its own filters, which is a locally connected layer.

    Args:
        input: (N, C, H, W) or (C, H, W), floating point, any strides.
        weight: (Th, Tw, O, C / groups, kh, kw), of the input's dtype.
        bias: (Th, Tw, O) or ``None``.
        stride: step of the window, in pixels.
        padding: zeros around the input, in pixels.
        groups: divides input and output channels; each group of outputs sees one of inputs.

    Returns:
        (N, O, Ho, Wo) in the input's dtype and memory format; under autocast in autocast's dtype.
        All derivatives exist, second ones too. Tiles beyond the output's size have gradient 0.
        Sums are in float32 (float64 for float64), and gradients do not depend on the number of
        threads.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    x, unbatched = batched_maps(_OP, "input", input)
    shape = "(tiles down, tiles across, out_channels, in_channels / groups, height, width)"
    x, weight, bias = operands(_OP, x, weight, bias, 6, shape)
    stride, padding = pair(_OP, "stride", stride, 1), pair(_OP, "padding", padding)
    if min(weight.shape[:2]) < 1:
        raise ValueError(
            f"{_OP}: weight must have no empty dimension (got shape {tuple(weight.shape)})"
        )
    around = [padding[0], padding[0], padding[1], padding[1]]
    check_sizes(_OP, x.shape, weight.shape[2:], stride, around, [1, 1], groups)
    check_bias(_OP, bias, weight.shape[:3])
    output = _tiled_conv2d(x, weight, bias, stride, padding, groups)
    return output.squeeze(0) if unbatched else output


def tiled_conv2d_ref(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    groups: int,
) -> Tensor:
    """The definition: every output pixel's patch of the input times the weights of its tile."""
    tiles_h, tiles_w, *_, kh, kw = weight.shape
    ho, wo = _output_size(input.shape, weight.shape, stride, padding)
    patches = F.unfold(input, (kh, kw), padding=as_pair(padding), stride=as_pair(stride))
    patches = patches.view(input.shape[0], groups, -1, ho, wo)
    rows, columns = torch.arange(ho) % tiles_h, torch.arange(wo) % tiles_w
    untied = weight[rows][:, columns].flatten(3).unflatten(2, (groups, -1))  # (Ho, Wo, g, o, k)
    output = torch.einsum("ngkyx,yxgok->ngoyx", patches, untied).flatten(1, 2)
    return output if bias is None else output + bias[rows][:, columns].permute(2, 0, 1)


def _output_size(input_size, weight_size, stride, padding):
    return [
        (size + 2 * p - k) // s + 1
        for size, k, s, p in zip(input_size[2:], weight_size[4:], stride, padding, strict=True)
    ]


def _is_channels_last(tensor):
    return memory_format(tensor) == torch.channels_last


def _empty(like, size, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


@torch.library.register_fake("fastconv::tiled_conv2d")
def _fake(input, weight, bias, stride, padding, groups):
    ho, wo = _output_size(input.shape, weight.shape, stride, padding)
    return _empty(input, (input.shape[0], weight.shape[2], ho, wo), _is_channels_last(input))


@torch.library.register_fake("fastconv::tiled_conv2d_input_grad")
def _fake_input_grad(grad_output, weight, input_size, stride, padding, groups, channels_last):
    return _empty(grad_output, input_size, channels_last)


@torch.library.register_fake("fastconv::tiled_conv2d_weight_grad")
def _fake_weight_grad(grad_output, input, weight_size, stride, padding, groups):
    return grad_output.new_empty(weight_size)


def _bias_grad(grad_output, tiles_h, tiles_w):
    """The sum over all pixels of each tile, (Th, Tw, O)."""
    height, width = grad_output.shape[2:]
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    # Over the batch first, as it lies in memory: the image that is left is small.
    if _is_channels_last(grad_output):
        image = grad_output.permute(0, 2, 3, 1).sum(0, dtype=dtype).permute(2, 0, 1)
    else:
        image = grad_output.sum(0, dtype=dtype)
    whole = F.pad(image, (0, -width % tiles_w, 0, -height % tiles_h))
    whole = whole.unflatten(2, (-1, tiles_w)).unflatten(1, (-1, tiles_h))
    return whole.sum((1, 3)).permute(1, 2, 0).to(grad_output.dtype)


# As for conv2d, the derivatives of each of the three ops are the other two.


def _setup_context(ctx, inputs, output):
    input, weight, _bias, *ctx.window = inputs
    of_input, of_weight, *_ = ctx.needs_input_grad
    ctx.input_size, ctx.weight_size = input.shape, weight.shape
    ctx.channels_last = _is_channels_last(input)
    ctx.save_for_backward(input if of_weight else None, weight if of_input else None)


def _backward(ctx, grad_output):
    input, weight = ctx.saved_tensors
    of_input, of_weight, of_bias, *_ = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if of_input:
        grad_input = _tiled_conv2d_input_grad(
            grad_output, weight, ctx.input_size, *ctx.window, ctx.channels_last
        )
    if of_weight:
        grad_weight = _tiled_conv2d_weight_grad(grad_output, input, ctx.weight_size, *ctx.window)
    if of_bias:
        grad_bias = _bias_grad(grad_output, *ctx.weight_size[:2])
    return grad_input, grad_weight, grad_bias, None, None, None


def _setup_context_of_grad(ctx, inputs, output):
    first, second, _size, *window = inputs
    ctx.window = window[:3]
    ctx.save_for_backward(first, second)


def _backward_of_input_grad(ctx, grad):
    grad_output, weight = ctx.saved_tensors
    of_grad_output, of_weight, *_ = ctx.needs_input_grad
    grad_grad_output = grad_weight = None
    if of_grad_output:
        grad_grad_output = _tiled_conv2d(grad, weight, None, *ctx.window)
    if of_weight:
        grad_weight = _tiled_conv2d_weight_grad(grad_output, grad, weight.shape, *ctx.window)
    return grad_grad_output, grad_weight, None, None, None, None, None


def _backward_of_weight_grad(ctx, grad):
    grad_output, input = ctx.saved_tensors
    of_grad_output, of_input, *_ = ctx.needs_input_grad
    grad_grad_output = grad_input = None
    if of_grad_output:
        grad_grad_output = _tiled_conv2d(input, grad, None, *ctx.window)
    if of_input:
        grad_input = _tiled_conv2d_input_grad(
            grad_output, grad, input.shape, *ctx.window, _is_channels_last(input)
        )
    return grad_grad_output, grad_input, None, None, None, None


_tiled_conv2d.register_autograd(_backward, setup_context=_setup_context)
_tiled_conv2d_input_grad.register_autograd(
    _backward_of_input_grad,
    setup_context=_setup_context_of_grad,
)
_tiled_conv2d_weight_grad.register_autograd(
    _backward_of_weight_grad,
    setup_context=_setup_context_of_grad,
)
