"""Local response normalisation: each response is divided by a power of its neighbours' energy.

Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import check_floating, integer, memory_format, number
from fastconv.ops._kernels import kernel

_local_response_norm = kernel("local_response_norm")
_local_response_norm_backward = kernel("local_response_norm_backward")

_ALPHA_MODES = ("mean", "sum")
_REGIONS = ("across", "within")


def local_response_norm(
    input: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    alpha_mode: str = "mean",
    region: str = "across",
) -> Tensor:
    """``input / (k + a * sum of squares in a window) ** beta``.

    With its defaults this is ``torch.nn.functional.local_response_norm``.

    Args:
        input: (N, C, *), at least 3 dimensions, floating point; for ``region="within"`` exactly
            (N, C, H, W). Memory in (N, *, C) order (channels_last) is as welcome as (N, C, *).
        size: width of the window, in maps or pixels. The window of map ``c`` is
            ``[c - size // 2, c + (size - 1) // 2]``; what lies outside the input counts as 0.
        alpha: weight of the energy; ``alpha_mode`` says of what.
        beta: the power, any number; 0.5, 0.75 and 1 are the fastest.
        k: what the energy is added to. As in torch it is not checked: with ``k=0`` a window of
            zeros gives NaN.
        alpha_mode: ``"mean"``: ``a = alpha / (elements of the window)``, as in torch, Caffe, cuDNN
            and the 2012 code. ``"sum"``: ``a = alpha``, the formula that the paper prints. At the
            paper's constants (size 5) the two differ by a factor of 5.
        region: ``"across"``: a window of ``size`` maps at the same pixel. ``"within"``: a window of
            ``size x size`` pixels in the same map, centred like the other, as Caffe's
            ``WITHIN_CHANNEL`` (there k is always 1) and cuda-convnet's ``rnorm`` layer.

    Returns:
        The normalised responses in the input's shape, dtype and memory format. Sums and powers are
        computed in float32 (float64 for float64), whose range the squares must not leave: that is
        all of float16, and up to about 1e18 in float32 and bfloat16. Autocast leaves the dtype as
        it is.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "local_response_norm"
    check_floating(op, "input", input)
    size = integer(op, "size", size)
    alpha, beta, k = number(op, "alpha", alpha), number(op, "beta", beta), number(op, "k", k)
    if alpha_mode not in _ALPHA_MODES:
        raise ValueError(
            f"{op}: alpha_mode must be 'mean' or 'sum' (got alpha_mode={alpha_mode!r})"
        )
    if region not in _REGIONS:
        raise ValueError(f"{op}: region must be 'across' or 'within' (got region={region!r})")
    within = region == "within"
    if within and input.dim() != 4:
        raise ValueError(
            f"{op}: input must have shape (N, C, H, W) for region='within' "
            f"(got {tuple(input.shape)})"
        )
    if input.dim() < 3:
        raise ValueError(
            f"{op}: input must have shape (N, C, *), at least 3 dimensions "
            f"(got {tuple(input.shape)})"
        )
    if alpha_mode == "mean":
        alpha = alpha / (size * size if within else size)
    # The kernels know (N, C, H, W); across maps all pixels may as well stand in one row.
    x = input if input.dim() == 4 else input.flatten(2).unsqueeze(2)
    output = _local_response_norm(x, size, alpha, beta, k, within)
    return output if input.dim() == 4 else output.view(input.shape)


def local_response_norm_ref(
    input: Tensor, size: int, alpha: float, beta: float, k: float, within: bool
) -> Tensor:
    """The definition for (N, C, H, W) in plain torch; ``alpha`` weighs the sum of squares."""
    return input / (k + alpha * _window_sum(input * input, size, within)) ** beta


def local_response_norm_backward_ref(
    grad_output: Tensor,
    input: Tensor,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    within: bool,
) -> Tensor:
    """The gradient of :func:`local_response_norm_ref`, written out."""
    scale = k + alpha * _window_sum(input * input, size, within)
    ratio = grad_output * input / scale ** (beta + 1)
    through_scale = 2 * alpha * beta * input * _window_sum(ratio, size, within, mirrored=True)
    return grad_output / scale**beta - through_scale


def _window_sum(x: Tensor, size: int, within: bool, mirrored: bool = False) -> Tensor:
    before, after = size // 2, (size - 1) // 2
    if mirrored:
        before, after = after, before
    if within:
        window = F.pad(x, (before, after, before, after))
        return window.unfold(2, size, 1).unfold(3, size, 1).sum((-2, -1))
    return F.pad(x, (0, 0, 0, 0, before, after)).unfold(1, size, 1).sum(-1)


@torch.library.register_fake("fastconv::local_response_norm")
def _fake(input, size, alpha, beta, k, within):
    return torch.empty_like(input, memory_format=memory_format(input))


@torch.library.register_fake("fastconv::local_response_norm_backward")
def _fake_backward(grad_output, input, size, alpha, beta, k, within):
    return torch.empty_like(input, memory_format=memory_format(input))


def _setup_context(ctx, inputs, output):
    input, *ctx.constants = inputs
    ctx.save_for_backward(input)


def _backward(ctx, grad_output):
    (input,) = ctx.saved_tensors
    grad_input = _local_response_norm_backward(grad_output, input, *ctx.constants)
    return grad_input, None, None, None, None, None


def _setup_context_of_backward(ctx, inputs, output):
    grad_output, input, *ctx.constants = inputs
    ctx.save_for_backward(grad_output, input)


def _backward_of_backward(ctx, grad):
    def backward(grad_output, input):
        return local_response_norm_backward_ref(grad_output, input, *ctx.constants)

    # Second derivatives are rare: plain torch gives them.
    vjp = torch.func.vjp(backward, *ctx.saved_tensors)[1]
    return *vjp(grad), None, None, None, None, None


_local_response_norm.register_autograd(_backward, setup_context=_setup_context)
_local_response_norm_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
