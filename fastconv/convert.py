"""Swaps torch's layers for ours in a model that is there already, fuses neighbours, freezes."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import nn as fnn
from fastconv import ops
from fastconv.ops._arguments import pair

# What ours have beyond torch's, set to what makes them equal.
_OURS: dict[type[nn.Module], tuple[type[nn.Module], dict[str, str]]] = {
    nn.Conv2d: (fnn.Conv2d, {"activation": "none", "algorithm": "auto"}),
    nn.Linear: (fnn.Linear, {"activation": "none", "algorithm": "auto"}),
    nn.AvgPool2d: (fnn.AvgPool2d, {}),
    nn.MaxPool2d: (fnn.MaxPool2d, {}),
    nn.MaxUnpool2d: (fnn.MaxUnpool2d, {"mode": "overwrite"}),
    nn.LocalResponseNorm: (fnn.LocalResponseNorm, {"alpha_mode": "mean", "region": "across"}),
}


def convert(model: nn.Module) -> nn.Module:
    """Swap ``torch.nn`` layers for fastconv's, in place.

    Layers become ours where they stand: the module objects, their parameters, buffers, hooks and
    ``state_dict`` keys stay the same, so that optimizers and saved weights go on working, and a
    layer used in several places still is. Converting twice changes nothing.

    Only layers that are exactly torch's Conv2d, Linear, AvgPool2d, MaxPool2d, MaxUnpool2d or
    LocalResponseNorm are converted: a subclass may compute something else, so it is left alone. So
    are the few layers that our ops refuse: complex weights and maxima over more than 256 elements.

    Args:
        model: any module, which may itself be such a layer.

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) in _OURS and _is_accepted(module):
            ours, options = _OURS[type(module)]
            # Ours are subclasses that add options alone. Changing the class keeps all the rest.
            module.__class__ = ours
            for name, value in options.items():
                setattr(module, name, value)
    return model


def _is_accepted(module: nn.Module) -> bool:
    """Whether our op takes what torch's takes here."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return module.weight.is_floating_point()
    if isinstance(module, nn.MaxPool2d):
        height, width = pair("convert", "kernel_size", module.kernel_size)
        return height * width <= 256  # a switch is one byte
    return True


def fuse(model: nn.Module) -> nn.Module:
    """Let neighbours share a pass over memory, in place: for training and inference alike.

    In every ``torch.nn.Sequential`` (the package's models are such):

    - A ReLU behind one of our ``Conv2d`` or ``Linear`` moves into it.
    - A ReLU before a ``MaxPool2d`` moves behind it, where there are fewer elements: a maximum of
      rectified values is the rectified maximum, and the gradient goes to the same place.
    - A ``LocalResponseNorm`` across maps before a ``MaxPool2d`` moves into it
      (:func:`fastconv.local_response_norm_max_pool2d`).

    The results are the same numbers. What was a ReLU or a normalisation becomes
    ``torch.nn.Identity`` under the same name, so parameters and ``state_dict`` keys stay as they
    are; but that stage's own output is no longer the rectified or normalised one, so look inside a
    model (``fastconv visualize``, hooks) before fusing it. Left alone are layers with hooks,
    subclasses, and layers that stand in several places. Fusing twice changes nothing.

    Args:
        model: any module.

    Returns:
        The same model.
    """
    uses = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            stages = list(sequence._modules.items())
            for i, (name, stage) in enumerate(stages):
                # A layer that stands in two places would change in both.
                before, after = (
                    stages[j][1] if 0 <= j < len(stages) and uses[id(stages[j][1])] == 1 else None
                    for j in (i - 1, i + 1)
                )
                if _fuse_relu(before, stage, after) or _fuse_norm(stage, after):
                    sequence._modules[name] = nn.Identity()
    return model


def _is_plain(module: nn.Module | None, *types: type[nn.Module]) -> bool:
    """Exactly of such a type, for a subclass may compute something else, and without hooks."""
    if type(module) not in types:
        return False
    assert module is not None
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _is_plain_pool(module: nn.Module | None) -> TypeGuard[nn.MaxPool2d]:
    if not _is_plain(module, nn.MaxPool2d, fnn.MaxPool2d):
        return False
    assert isinstance(module, nn.MaxPool2d)
    return not module.return_indices and _is_accepted(module)


def _fuse_relu(before: nn.Module | None, relu: nn.Module, after: nn.Module | None) -> bool:
    if not _is_plain(relu, nn.ReLU):
        return False
    if _is_plain_pool(after):
        _RectifiedMaxPool2d.of(after)
    elif _is_plain(before, fnn.Conv2d, fnn.Linear):
        assert isinstance(before, fnn.Conv2d | fnn.Linear)
        before.activation = "relu"
    else:
        return False
    return True


def _fuse_norm(norm: nn.Module, pool: nn.Module | None) -> bool:
    if not _is_plain(norm, nn.LocalResponseNorm, fnn.LocalResponseNorm) or not _is_plain_pool(pool):
        return False
    assert isinstance(norm, nn.LocalResponseNorm)
    if getattr(norm, "region", "across") != "across":
        return False
    NormalisedMaxPool2d.of(pool, norm)
    return True


def freeze(model: nn.Module) -> nn.Module:
    """Prepare a model for inference alone, in place: faster for one image or a few, on a CPU.

    Puts it into evaluation mode, takes ``requires_grad`` from its parameters, and lets each of our
    ``Conv2d`` keep its weight as the kernel reads it (Winograd's transform, 16 elements for 9 of a
    3x3 filter), which other models make anew at each call.
    It is made at the first call and again whenever the weight was changed, but for changes through
    ``.data``, which torch does not count. Fuse first: ``fastconv.freeze(fastconv.fuse(model))``.

    Args:
        model: any module. Its parameters and ``state_dict`` stay as they are. What the layers
            keep is neither saved nor copied.

    Returns:
        The same model.
    """
    for module in model.modules():
        if type(module) is fnn.Conv2d:
            module.__class__ = _FrozenConv2d
    return model.eval().requires_grad_(False)


class _FrozenConv2d(fnn.Conv2d):
    """A convolution that keeps its filters' transform, for `freeze`."""

    _kept: tuple[Tensor, tuple[int, int], Tensor] | None = None  # of a weight in such a state

    def _filters(self) -> Tensor:
        weight, kept = self.weight, self._kept
        state = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if kept is None or kept[0] is not weight or kept[1] != state:
            stride = pair("freeze", "stride", self.stride)
            filters = torch.ops.fastconv.conv2d_filters(weight.detach(), stride, self.groups)
            kept = self._kept = weight, state, filters
        return kept[2]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


class NormalisedMaxPool2d(fnn.MaxPool2d):
    """Local response normalisation across maps and then max pooling, for `fuse`.

    Attributes:
        normalisation: the arguments of :func:`fastconv.local_response_norm`.
    """

    normalisation: dict[str, Any]

    @classmethod
    def of(cls, pool: nn.MaxPool2d, norm: nn.LocalResponseNorm) -> None:
        pool.__class__ = cls
        assert isinstance(pool, NormalisedMaxPool2d)
        pool.normalisation = {
            **{name: getattr(norm, name) for name in ("size", "alpha", "beta", "k")},
            "alpha_mode": getattr(norm, "alpha_mode", "mean"),
        }

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4:  # the normalisation takes (N, C, L), the pool (C, H, W)
            output = super().forward(ops.local_response_norm(input, **self.normalisation))
            assert isinstance(output, Tensor)  # `fuse` leaves pools that return indices alone
            return output
        norm = dict(self.normalisation)
        window = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return ops.local_response_norm_max_pool2d(input, norm.pop("size"), *window, **norm)

    def extra_repr(self) -> str:
        norm = ", ".join(f"{name}={value}" for name, value in self.normalisation.items())
        return f"{super().extra_repr()}, normalisation=({norm})"


class _RectifiedMaxPool2d(fnn.MaxPool2d):
    """Max pooling and then a ReLU, for `fuse`."""

    @classmethod
    def of(cls, pool: nn.MaxPool2d) -> None:
        pool.__class__ = cls

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        assert isinstance(output, Tensor)  # `fuse` leaves pools that return indices alone
        return F.relu_(output)  # which nothing else sees: the pool's way back needs its switches
