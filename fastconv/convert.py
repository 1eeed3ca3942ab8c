"""Swaps torch's layers for ours in a model that is there already."""

from __future__ import annotations

from torch import nn

from fastconv import nn as fnn
from fastconv.ops._arguments import pair

# What ours have beyond torch's, set to what makes them equal.
_OURS: dict[type[nn.Module], tuple[type[nn.Module], dict[str, str]]] = {
    nn.Conv2d: (fnn.Conv2d, {"activation": "none", "algorithm": "auto"}),
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

    Only layers that are exactly torch's Conv2d, AvgPool2d, MaxPool2d, MaxUnpool2d or
    LocalResponseNorm are converted: a subclass may compute something else, so it is left alone. So
    are the few layers that our ops refuse: convolutions with complex weights and maxima over more
    than 256 elements.

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
    if isinstance(module, nn.Conv2d):
        return module.weight.is_floating_point()
    if isinstance(module, nn.MaxPool2d):
        height, width = pair("convert", "kernel_size", module.kernel_size)
        return height * width <= 256  # a switch is one byte
    return True
