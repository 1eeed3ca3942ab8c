"""Local contrast normalisation: subtract the local mean, divide by the local deviation.

Jarrett, Kavukcuoglu, Ranzato & LeCun, "What is the best multi-stage architecture for object
recognition?", ICCV 2009, section 2; Torch7's SpatialContrastiveNormalization (threshold, borders).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.ops._arguments import (
    batched_maps,
    check_bool,
    integer,
    memory_format,
    number,
)
from fastconv.ops._kernels import kernel

_local_contrast_norm = kernel("local_contrast_norm")
_local_contrast_norm_backward = kernel("local_contrast_norm_backward")

_DIVISORS = ("mean", "threshold")


def local_contrast_norm(
    input: Tensor,
    kernel_size: int = 7,
    sigma: float | None = None,
    *,
    across_maps: bool = True,
    divisor: str = "mean",
    eps: float = 1e-4,
) -> Tensor:
    """Give every neighbourhood mean 0, and deviation 1 where it has contrast.

    With w a Gaussian window that sums to 1, over its part inside the image at borders too::

        v = x - sum w x            over the window and, with across_maps, the mean of the maps
        s = sqrt(sum w v^2)        likewise
        y = v / max(c, s)          c = mean of s over the image, at least eps; or eps

    Args:
        input: (N, C, H, W) or one image (C, H, W), floating point, either memory format.
        kernel_size: height and width of the window, odd; it may be larger than the image.
        sigma: standard deviation of the Gaussian, in elements; ``None``: ``kernel_size / 4``, as
            in Torch7's ``image.gaussian``.
        across_maps: whether mean and deviation are shared by all maps of an image (Jarrett et
            al.), or each map has its own (cuda-convnet's ``cnorm``), c included.
        divisor: ``"mean"``: low contrast is left low, relative to the image's mean deviation; the
            result does not depend on the input's scale. ``"threshold"``: all deviations above
            ``eps`` become 1.
        eps: least divisor, positive. A constant image gives exactly 0.

    Returns:
        The normalised maps, in the input's shape, dtype and memory format; computed in float32
        (float64 for float64), whose range the squares must not leave: that is all of float16, and
        up to about 1e18 in float32 and bfloat16. A NaN reaches what shares a window with it, and
        with ``divisor="mean"`` its whole image. Where the deviation is 0 its gradient counts as 0.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    op = "local_contrast_norm"
    if divisor not in _DIVISORS:
        raise ValueError(f"{op}: divisor must be 'mean' or 'threshold' (got divisor={divisor!r})")
    kernel_size = integer(op, "kernel_size", kernel_size, least=-(2**63))
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"{op}: kernel_size must be odd and positive (got kernel_size={kernel_size})"
        )
    sigma = kernel_size / 4 if sigma is None else number(op, "sigma", sigma)
    eps = number(op, "eps", eps)
    for name, value in (("sigma", sigma), ("eps", eps)):
        if not 0 < value < math.inf:
            raise ValueError(f"{op}: {name} must be positive and finite (got {name}={value})")
    check_bool(op, "across_maps", across_maps)
    x, unbatched = batched_maps(op, "input", input)
    if min(x.shape[1:]) < 1:
        raise ValueError(
            f"{op}: input must have no empty dimension but the batch (got shape {tuple(x.shape)})"
        )
    output, _ = _local_contrast_norm(x, kernel_size, sigma, across_maps, divisor == "mean", eps)
    return output.squeeze(0) if unbatched else output


def local_contrast_norm_ref(
    input: Tensor,
    kernel_size: int,
    sigma: float,
    across_maps: bool,
    mean_divisor: bool,
    eps: float,
) -> Tensor:
    """The definition, composed of 2-d convolutions, for a (N, C, H, W) input."""
    n, c, h, w = input.shape
    maps = input if across_maps else input.reshape(n * c, 1, h, w)
    distance = torch.arange(kernel_size, dtype=torch.float64) - kernel_size // 2
    gaussian = torch.exp(-0.5 * (distance / sigma) ** 2)
    window = torch.outer(gaussian, gaussian) / gaussian.sum() ** 2
    window = window.to(input).expand(1, 1, -1, -1)

    def local_average(values):
        padding = kernel_size // 2
        inside = F.conv2d(torch.ones_like(values[:1, :1]), window, padding=padding)
        weight = window.expand(1, values.shape[1], -1, -1) / values.shape[1]
        return F.conv2d(values, weight, padding=padding) / inside

    v = maps - local_average(maps)
    s = local_average(v * v).sqrt()
    floor = s.mean((2, 3), keepdim=True).clamp_min(eps) if mean_divisor else s.new_tensor(eps)
    return (v / torch.maximum(floor, s)).reshape(n, c, h, w)


@torch.library.register_fake("fastconv::local_contrast_norm")
def _fake(input, kernel_size, sigma, across_maps, mean_divisor, eps):
    n, _, h, w = input.shape
    output = torch.empty_like(input, memory_format=memory_format(input))
    kept = 2 if across_maps else 0
    accumulate = torch.float64 if input.dtype == torch.float64 else torch.float32
    return output, input.new_empty((n, kept, h, w), dtype=accumulate)


@torch.library.register_fake("fastconv::local_contrast_norm_backward")
def _fake_backward(
    grad_output, input, statistics, kernel_size, sigma, across_maps, mean_divisor, eps
):
    return torch.empty_like(input, memory_format=memory_format(input))


def _setup_context(ctx, inputs, output):
    input, *ctx.arguments = inputs
    _, statistics = output
    ctx.save_for_backward(input, statistics)
    ctx.mark_non_differentiable(statistics)


def _backward(ctx, grad_output, _grad_statistics):
    grad_input = _local_contrast_norm_backward(grad_output, *ctx.saved_tensors, *ctx.arguments)
    return grad_input, None, None, None, None, None


def _setup_context_of_backward(ctx, inputs, output):
    pass


def _backward_of_backward(ctx, grad):
    raise RuntimeError("local_contrast_norm: there is no second derivative")


_local_contrast_norm.register_autograd(_backward, setup_context=_setup_context)
_local_contrast_norm_backward.register_autograd(
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
)
