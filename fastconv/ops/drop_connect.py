"""DropConnect: a linear layer whose weights, not whose outputs, are dropped at random.

Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using DropConnect", ICML
2013.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import (
    autocast,
    check_bool,
    check_floating,
    check_generator,
    check_like,
    check_tensor,
)
from fastconv.ops._kernels import kernel
from fastconv.ops._random import draw_seed

_drop_connect = kernel("drop_connect")
_drop_connect_mask = kernel("drop_connect_mask")
_drop_connect_input_grad = kernel("drop_connect_input_grad")
_drop_connect_weight_grad = kernel("drop_connect_weight_grad")

_OP = "drop_connect"
_MASKS = ("sample", "batch")


def drop_connect(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
    *,
    mask: str = "sample",
    mask_bias: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``(M * weight) @ x + bias`` for each example ``x``, with a random mask ``M`` of its own.

    Args:
        input: (..., in_features), any leading dimensions, floating point. Every row is an example.
        weight: (out_features, in_features), of the input's dtype.
        bias: (out_features,) or ``None``.
        p: probability with which a weight is dropped, in [0, 1]. It is not rounded: 0.3 drops with
            the probability that the float 0.3 stands for. Halves, quarters and other multiples of
            1/256 are the fastest.
        training: ``False``: the mean over all masks, ``(1 - p) * weight @ x + bias``, without
            randomness; a masked bias is multiplied by ``1 - p`` too.
        mask: ``"sample"``: independent masks for the weights of every example, as in the paper.
            They are drawn in registers, in the backward pass again, and never stored: beyond its
            output the op takes a few hundred kilobytes a thread. ``"batch"``: one mask for all
            examples; then the masked weight is stored and multiplied by torch.
        mask_bias: also drop the bias' elements, each with probability ``p``, as the authors' code.
        generator: where the seed of the masks is drawn from; ``None``: torch's default generator.

    Returns:
        (..., out_features) in the input's dtype; under autocast in autocast's, as torch's linear.
        What is kept is not scaled by ``1 / (1 - p)``, as in the paper. A dropped weight counts as
        0. The masks depend on the seed and the logical index alone, not on the number of threads
        or the instruction set. The kernels sum in float32 (float64 for float64) and round once. All
        derivatives exist, second ones too. With ``mask="sample"`` no bit depends on the number of
        threads; the products of ``mask="batch"``, ``p=0`` and ``training=False`` are torch's.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    if mask not in _MASKS:
        raise ValueError(f"{_OP}: mask must be 'sample' or 'batch' (got mask={mask!r})")
    check_bool(_OP, "training", training)
    check_bool(_OP, "mask_bias", mask_bias)
    check_generator(_OP, generator)
    input, weight, bias = _checked(_OP, input, weight, bias, p)
    if p == 0:
        return F.linear(input, weight, bias)
    if not training:
        return _mean(input, weight, bias, p, mask_bias)
    seed = draw_seed(input, generator)
    outputs, inputs = weight.shape
    if mask == "batch":
        kept = _drop_connect_mask(seed, 1, outputs, 0, inputs, p)
        if bias is not None and mask_bias:
            kept_bias = _drop_connect_mask(seed, 1, outputs, inputs, inputs + 1, p)
            bias = torch.where(kept_bias[0, :, 0], bias, 0)
        return F.linear(input, torch.where(kept[0], weight, 0), bias)
    x = _rows(input)
    if bias is not None and mask_bias:
        kept_bias = _drop_connect_mask(seed, x.shape[0], outputs, inputs, inputs + 1, p)
        bias = torch.where(kept_bias[..., 0], bias, 0)
    output = _drop_connect(x, weight, bias, seed, p)
    return output.reshape(*input.shape[:-1], outputs)


def drop_connect_gaussian(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    *,
    samples: int = 100,
    activation: Callable[[Tensor], Tensor] | None = None,
    mask_bias: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What DropConnect gives at test time: the mean activation under random masks, by sampling.

    Over all masks a pre-activation ``u`` is close to a Gaussian of mean ``(1 - p) * weight @ x +
    bias`` and variance ``p * (1 - p) * weight**2 @ x**2`` (the paper's algorithm 2; a masked bias
    adds its own term to both). ``samples`` draws of each ``u`` go through
    ``activation`` and are averaged.

    Args:
        input, weight, bias, p, mask_bias: as for :func:`drop_connect`.
        samples: number of draws, at least 1; the error falls as its square root.
        activation: the layer's non-linearity, elementwise; ``None``: none, and then the mean of
            :func:`drop_connect` with ``training=False`` is the exact answer.
        generator: where the draws come from, on the input's device; ``None``: torch's default.

    Returns:
        (..., out_features) in the input's dtype (under autocast, in autocast's). Mean and variance
        are computed in float32, or float64 for float64; the squares of the weights are stored
        while they are.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "drop_connect_gaussian"
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"{op}: samples must be an int of at least 1 (got samples={samples!r})")
    check_bool(op, "mask_bias", mask_bias)
    check_generator(op, generator)
    input, weight, bias = _checked(op, input, weight, bias, p)
    with _no_autocast(input.device.type):
        mean, variance = _moments(input, weight, bias, p, mask_bias)
        # A variance of 0 has a gradient of 0, not of 1 / 0.
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        total = torch.zeros_like(mean)
        for _ in range(samples):
            noise = torch.empty_like(mean).normal_(generator=generator)
            sample = mean + deviation * noise
            total = total + (sample if activation is None else activation(sample))
        return (total / samples).to(input.dtype)


def drop_connect_ref(input: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor) -> Tensor:
    """The definition, with every mask in memory: ``kept`` is (N, out, in), ``input`` (N, in).

    ``bias`` is (out,), or (N, out) where it is masked already.
    """
    masked = kept.to(weight.dtype) * weight
    output = (masked @ input[:, :, None]).squeeze(2)
    return output if bias is None else output + bias


def _checked(op, input, weight, bias, p):
    """The tensors in the dtype to compute in, once all arguments are what they must be."""
    if not isinstance(p, int | float) or isinstance(p, bool):
        raise TypeError(f"{op}: p must be a number (got p={p!r})")
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p must be a probability within [0, 1] (got p={p})")
    check_floating(op, "input", input)
    check_tensor(op, "weight", weight)
    if bias is not None:
        check_tensor(op, "bias", bias)
    if weight.dim() != 2:
        raise ValueError(
            f"{op}: weight must have shape (out_features, in_features) (got {tuple(weight.shape)})"
        )
    if input.dim() < 1 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: input must have shape (..., {weight.shape[1]}) for weight of shape "
            f"{tuple(weight.shape)} (got {tuple(input.shape)})"
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(
            f"{op}: bias must have shape ({weight.shape[0]},) (got {tuple(bias.shape)})"
        )
    input, weight, bias = autocast(input, weight, bias)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            check_like(op, name, tensor, "input", input)
    return input, weight, bias


def _rows(input):
    return input.reshape(math.prod(input.shape[:-1]), input.shape[-1])  # -1 cannot be told from 0/0


def _mean(input, weight, bias, p, mask_bias):
    x = _rows(input)
    if bias is None:
        # Not a product and then a scale, whose gradient is rounded before it is summed.
        output = torch.addmm(x.new_zeros(()), x, weight.t(), beta=0, alpha=1 - p)
    else:
        output = torch.addmm(bias, x, weight.t(), beta=1 - p if mask_bias else 1, alpha=1 - p)
    return output.reshape(*input.shape[:-1], weight.shape[0])


def _moments(input, weight, bias, p, mask_bias):
    dtype = torch.promote_types(input.dtype, torch.float32)
    input, weight = input.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    mean = _mean(input, weight, bias, p, mask_bias)
    masked_bias = bias.square() if bias is not None and mask_bias else None
    variance = p * (1 - p) * F.linear(input.square(), weight.square(), masked_bias)
    return mean, variance


def _no_autocast(device_type):
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


@torch.library.register_fake("fastconv::drop_connect")
def _fake(input, weight, bias, seed, p):
    return input.new_empty(input.shape[0], weight.shape[0])


@torch.library.register_fake("fastconv::drop_connect_input_grad")
def _fake_input_grad(grad_output, weight, seed, p):
    return grad_output.new_empty(grad_output.shape[0], weight.shape[1])


@torch.library.register_fake("fastconv::drop_connect_weight_grad")
def _fake_weight_grad(grad_output, input, seed, p):
    return grad_output.new_empty(grad_output.shape[1], input.shape[1])


@torch.library.register_fake("fastconv::drop_connect_mask")
def _fake_mask(seed, examples, outputs, first_input, end_input, p):
    return seed.new_empty((examples, outputs, end_input - first_input), dtype=torch.bool)


# Three linear maps in each operand, each the others' derivative:
#   y[n,o] = sum_i M x W, input_grad[n,i] = sum_o M g W, weight_grad[o,i] = sum_n M g x.


def _forward(x, weight, seed, p):
    return _drop_connect(x, weight, None, seed, p)


def _input_grad(g, weight, seed, p):
    return _drop_connect_input_grad(g, weight, seed, p)


def _weight_grad(g, x, seed, p):
    return _drop_connect_weight_grad(g, x, seed, p)


def _setup_context(ctx, inputs, output):
    input, weight, bias, seed, ctx.p = inputs
    ctx.masked_bias = bias is not None and bias.dim() == 2
    of_input, of_weight, *_ = ctx.needs_input_grad
    ctx.save_for_backward(input if of_weight else None, weight if of_input else None, seed)


def _backward(ctx, grad):
    x, weight, seed = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    grad_bias = None
    if needs_bias:
        grad_bias = grad if ctx.masked_bias else grad.sum(0)
    return (
        _input_grad(grad, weight, seed, ctx.p) if needs_x else None,
        _weight_grad(grad, x, seed, ctx.p) if needs_weight else None,
        grad_bias,
        None,
        None,
    )


def _setup_context_of_grad(ctx, inputs, output):
    g, other, seed, ctx.p = inputs
    ctx.save_for_backward(g, other, seed)


def _backward_of_input_grad(ctx, grad):
    g, weight, seed = ctx.saved_tensors
    needs_g, needs_weight, *_ = ctx.needs_input_grad
    return (
        _forward(grad, weight, seed, ctx.p) if needs_g else None,
        _weight_grad(g, grad, seed, ctx.p) if needs_weight else None,
        None,
        None,
    )


def _backward_of_weight_grad(ctx, grad):
    g, x, seed = ctx.saved_tensors
    needs_g, needs_x, *_ = ctx.needs_input_grad
    return (
        _forward(x, grad, seed, ctx.p) if needs_g else None,
        _input_grad(g, grad, seed, ctx.p) if needs_x else None,
        None,
        None,
    )


_drop_connect.register_autograd(_backward, setup_context=_setup_context)
_drop_connect_input_grad.register_autograd(
    _backward_of_input_grad,
    setup_context=_setup_context_of_grad,
)
_drop_connect_weight_grad.register_autograd(
    _backward_of_weight_grad,
    setup_context=_setup_context_of_grad,
)
