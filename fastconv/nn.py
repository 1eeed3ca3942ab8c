"""The ops as layers, with torch.nn's signatures, attributes and state_dict keys.

Where torch.nn has the layer, ours is a subclass of it: ``isinstance`` checks, initialisers and
saved weights go on working.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import ops
from fastconv.ops._arguments import IntOrPair, pair
from fastconv.ops.conv2d import convolve

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "DropConnectLinear",
    "Dropout",
    "Linear",
    "LocalContrastNorm",
    "LocalResponseNorm",
    "MaxPool2d",
    "MaxUnpool2d",
    "Maxout",
    "StochasticPool2d",
    "SumPool2d",
    "TiledConv2d",
]


class Conv2d(nn.Conv2d):
    """:func:`fastconv.conv2d` as a layer: ``torch.nn.Conv2d`` and two options.

    Args:
        activation: "none", or "relu" to clip the output at 0 in the same pass.
        algorithm: "auto", "fastconv", "fastconv_wgmma" or "library".
    """

    def __init__(self, *args, activation: str = "none", algorithm: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.algorithm = algorithm

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # torch's name: subclasses that compute with another weight (standardised, quantised) call
        # it, and get the options above too.
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return convolve(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            activation=self.activation,
            algorithm=self.algorithm,
            filters=self._filters,
        )

    # Of a layer that keeps the transform of its weight (`fastconv.freeze`): a function of nothing.
    _filters: Callable[[], Tensor] | None = None

    def extra_repr(self) -> str:
        return super().extra_repr() + _options_repr(self)


class Linear(nn.Linear):
    """:func:`fastconv.linear` as a layer: ``torch.nn.Linear`` and two options.

    Args:
        activation: "none", or "relu" to clip the output at 0 in the same pass.
        algorithm: "auto", "fastconv" or "library".
    """

    def __init__(self, *args, activation: str = "none", algorithm: str = "auto", **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = activation
        self.algorithm = algorithm

    def forward(self, input: Tensor) -> Tensor:
        return ops.linear(
            input, self.weight, self.bias, activation=self.activation, algorithm=self.algorithm
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + _options_repr(self)


def _options_repr(layer: Conv2d | Linear) -> str:
    """The options that torch's layer lacks, where they are not the defaults."""
    text = "" if layer.activation == "none" else f", activation={layer.activation}"
    return text if layer.algorithm == "auto" else f"{text}, algorithm={layer.algorithm}"


_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class DropConnectLinear(nn.Linear):
    """:func:`fastconv.drop_connect` as a layer: ``torch.nn.Linear`` whose weights are dropped.

    Args:
        in_features, out_features, bias: as for ``torch.nn.Linear``.
        p: probability with which a weight is dropped in training.
        mask: "sample": a mask for every example; "batch": one for the batch.
        mask_bias: drop the elements of the bias too, as the authors' code does.
        activation: "none", "relu", "tanh", "sigmoid" or any elementwise callable. It is part of the
            layer because inference has to average behind it.
        inference: what evaluation gives. "mean": the activation of the mean pre-activation.
            "gaussian": the mean activation, by sampling (:func:`fastconv.drop_connect_gaussian`).
        samples: draws of "gaussian" for each activation.

    ``forward(input, generator=None)`` takes (..., in_features); masks and draws come from
    ``generator``, or from torch's default one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        mask: str = "sample",
        mask_bias: bool = False,
        activation: str | Callable[[Tensor], Tensor] = "none",
        inference: str = "mean",
        samples: int = 100,
        device=None,
        dtype=None,
    ):
        name = type(self).__name__
        if not callable(activation) and activation not in _ACTIVATIONS:
            raise ValueError(
                f"{name}: activation must be callable or one of {', '.join(_ACTIVATIONS)} "
                f"(got activation={activation!r})"
            )
        if inference not in ("mean", "gaussian"):
            raise ValueError(
                f"{name}: inference must be 'mean' or 'gaussian' (got inference={inference!r})"
            )
        if mask not in ("sample", "batch"):
            raise ValueError(f"{name}: mask must be 'sample' or 'batch' (got mask={mask!r})")
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: p must be a probability within [0, 1] (got p={p})")
        if samples < 1:
            raise ValueError(f"{name}: samples must be at least 1 (got samples={samples})")
        super().__init__(in_features, out_features, bias, device, dtype)
        self.p = p
        self.mask = mask
        self.mask_bias = mask_bias
        self.activation = activation
        self.inference = inference
        self.samples = samples

    def forward(self, input: Tensor, generator: torch.Generator | None = None) -> Tensor:
        activation = self.activation
        if isinstance(activation, str):
            activation = _ACTIVATIONS[activation]
        if not self.training and self.inference == "gaussian":
            return ops.drop_connect_gaussian(
                input,
                self.weight,
                self.bias,
                self.p,
                samples=self.samples,
                activation=activation,
                mask_bias=self.mask_bias,
                generator=generator,
            )
        output = ops.drop_connect(
            input,
            self.weight,
            self.bias,
            self.p,
            self.training,
            mask=self.mask,
            mask_bias=self.mask_bias,
            generator=generator,
        )
        return activation(output)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, p={self.p}"
        if self.mask != "sample":
            text += f", mask={self.mask}"
        if self.mask_bias:
            text += ", mask_bias=True"
        if isinstance(self.activation, str) and self.activation != "none":
            text += f", activation={self.activation}"
        if self.inference != "mean":
            text += f", inference={self.inference}, samples={self.samples}"
        return text


class Dropout(nn.Dropout):
    """Dropout in both conventions: ``torch.nn.Dropout`` and a choice of when to scale.

    Each element is dropped with probability ``p`` in training. Either way what follows sees the
    same mean in training and in evaluation.

    Args:
        p: probability with which an element is dropped, in [0, 1].
        inplace: write into the input.
        scale: "train": what is kept is divided by ``1 - p`` in training, and evaluation changes
            nothing (torch's and Caffe's convention). "test": what is kept stays as it is, and
            evaluation multiplies everything by ``1 - p`` (Hinton et al. 2012; Krizhevsky et al.
            2012, section 4.2; the 2012 code). Under "test" the layer above has to be trained at
            activations ``1 - p`` times as large, so weights do not carry over between the two.

    ``torch.manual_seed`` governs the draws; on the CPU both conventions drop the same elements.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, scale: str = "train"):
        name = type(self).__name__
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: p must be a probability within [0, 1] (got p={p})")
        if scale not in ("train", "test"):
            raise ValueError(f"{name}: scale must be 'train' or 'test' (got scale={scale!r})")
        super().__init__(p, inplace)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        if self.scale == "train":
            return super().forward(input)
        kept = torch.empty_like(input).bernoulli_(1 - self.p) if self.training else 1 - self.p
        return input.mul_(kept) if self.inplace else input * kept

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.scale == "train" else f"{text}, scale={self.scale}"


class MaxPool2d(nn.MaxPool2d):
    """:func:`fastconv.max_pool2d` as a layer: ``torch.nn.MaxPool2d``."""

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return ops.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            return_indices=self.return_indices,
        )


class MaxUnpool2d(nn.MaxUnpool2d):
    """:func:`fastconv.max_unpool2d` as a layer: ``torch.nn.MaxUnpool2d`` with switches.

    ``forward(input, switches, output_size=None)`` takes the uint8 switches of
    :func:`fastconv.max_pool2d_with_switches`, or the int64 indices that a pooling layer with
    ``return_indices=True`` gives. With switches, values that share a place are added (``mode=
    "accumulate"``) or the last one stays (``"overwrite"``); with indices this is torch's layer.
    """

    def __init__(self, *args, mode: str = "accumulate", **kwargs):
        super().__init__(*args, **kwargs)
        self.mode = mode

    def forward(
        self, input: Tensor, indices: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        if indices.dtype == torch.int64:
            return super().forward(input, indices, output_size)
        if output_size is None:
            window = (
                pair("MaxUnpool2d", name, getattr(self, name))
                for name in ("kernel_size", "stride", "padding")
            )
            windows = zip(input.shape[-2:], *window, strict=True)
            output_size = [(size - 1) * s - 2 * p + k for size, k, s, p in windows]
        return ops.max_unpool2d(
            input,
            indices,
            self.kernel_size,
            self.stride,
            self.padding,
            output_size=list(output_size)[-2:],
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode}"


class LocalContrastNorm(nn.Module):
    """:func:`fastconv.local_contrast_norm` as a layer; it has no parameters.

    Args:
        kernel_size: height and width of the Gaussian window, odd.
        sigma: its standard deviation; ``None``: ``kernel_size / 4``.
        across_maps: whether all maps of an image share mean and deviation.
        divisor: "mean" or "threshold".
        eps: least divisor.
    """

    def __init__(
        self,
        kernel_size: int = 7,
        sigma: float | None = None,
        *,
        across_maps: bool = True,
        divisor: str = "mean",
        eps: float = 1e-4,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.across_maps = across_maps
        self.divisor = divisor
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        return ops.local_contrast_norm(
            input,
            self.kernel_size,
            self.sigma,
            across_maps=self.across_maps,
            divisor=self.divisor,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        sigma = "" if self.sigma is None else f", sigma={self.sigma}"
        return (
            f"{self.kernel_size}{sigma}, across_maps={self.across_maps}, "
            f"divisor={self.divisor}, eps={self.eps}"
        )


class LocalResponseNorm(nn.LocalResponseNorm):
    """:func:`fastconv.local_response_norm` as a layer: ``torch.nn.LocalResponseNorm``.

    Args:
        alpha_mode: "mean" (torch, Caffe, the 2012 code) or "sum" (the paper's formula).
        region: "across" maps or "within" each.
    """

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        alpha_mode: str = "mean",
        region: str = "across",
    ):
        super().__init__(size, alpha, beta, k)
        self.alpha_mode = alpha_mode
        self.region = region

    def forward(self, input: Tensor) -> Tensor:
        return ops.local_response_norm(
            input,
            self.size,
            self.alpha,
            self.beta,
            self.k,
            alpha_mode=self.alpha_mode,
            region=self.region,
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.alpha_mode != "mean":
            text += f", alpha_mode={self.alpha_mode}"
        if self.region != "across":
            text += f", region={self.region}"
        return text


class AvgPool2d(nn.AvgPool2d):
    """:func:`fastconv.avg_pool2d` as a layer: ``torch.nn.AvgPool2d``."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _Pool2d(nn.Module):
    """What the pooling layers that torch does not have share: the window."""

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode}"
        )


class SumPool2d(_Pool2d):
    """:func:`fastconv.sum_pool2d` as a layer."""

    def forward(self, input: Tensor) -> Tensor:
        return ops.sum_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)


class StochasticPool2d(_Pool2d):
    """:func:`fastconv.stochastic_pool2d` as a layer.

    In training mode an element of each window is drawn, in evaluation mode the mean of all draws is
    taken. ``torch.manual_seed`` governs the draws.
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.stochastic_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            training=self.training,
        )


class Maxout(nn.Module):
    """:func:`fastconv.maxout` as a layer: maxima over groups of ``pool_size`` maps."""

    def __init__(self, pool_size: int, stride: int | None = None):
        super().__init__()
        self.pool_size = pool_size
        self.stride = pool_size if stride is None else stride

    def forward(self, input: Tensor) -> Tensor:
        return ops.maxout(input, self.pool_size, self.stride)

    def extra_repr(self) -> str:
        return f"pool_size={self.pool_size}, stride={self.stride}"


class TiledConv2d(nn.Module):
    """:func:`fastconv.tiled_conv2d` as a layer: ``torch.nn.Conv2d`` with tiles of filters.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups, bias: of the convolution.
        tile_size: (Th, Tw) or an int: after how many output pixels the filters repeat. 1: a
            convolution; the output's size: a locally connected layer.

    Parameters: ``weight`` (Th, Tw, out_channels, in_channels / groups, kh, kw) and ``bias``
    (Th, Tw, out_channels), both initialised as ``torch.nn.Conv2d``'s.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        tile_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups must divide in_channels and out_channels (got groups={groups}, "
                f"in_channels={in_channels}, out_channels={out_channels})"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = tuple(pair(name, "kernel_size", kernel_size))
        self.tile_size = tuple(pair(name, "tile_size", tile_size))
        self.stride = tuple(pair(name, "stride", stride))
        self.padding = tuple(pair(name, "padding", padding))
        self.groups = groups
        for argument in ("kernel_size", "tile_size"):
            if min(getattr(self, argument)) < 1:
                raise ValueError(
                    f"{name}: {argument} must be at least 1 "
                    f"(got {argument}={getattr(self, argument)})"
                )
        factory = {"device": device, "dtype": dtype}
        shape = (*self.tile_size, out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(shape[:3], **factory))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight[0, 0, 0].numel() ** -0.5  # one over the root of the fan in
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return ops.tiled_conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.groups
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"tile_size={self.tile_size}, stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else f"{text}, bias=False"
