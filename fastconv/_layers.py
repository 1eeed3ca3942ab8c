"""A network's layers by name: finding them, and listening to them while the network runs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.nn import DropConnectLinear, TiledConv2d

# Layers that weigh their inputs: what the papers count as the layers of a network.
CONVOLUTIONS = (nn.Conv2d, TiledConv2d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
RECTIFIERS = (nn.ReLU, nn.ReLU6)


OUTPUT = ""  # the name under which `collect` knows the model itself, whose output ends the run


class _Reached(Exception):
    """All layers that were asked for have answered; the rest of the network need not run."""


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module called ``name`` in ``model.named_modules()``.

    Raises:
        ValueError: there is none; the message has the closest names.
    """
    modules = dict(model.named_modules())
    if not isinstance(name, str) or not name or name not in modules:
        names = [n for n in modules if n]
        close = difflib.get_close_matches(str(name), names, n=3) or names[:8]
        raise ValueError(f"layer: the model has no {name!r}; closest: {', '.join(close)}")
    return modules[name]


def main_layers(model: nn.Module, kinds: tuple[type, ...] | None = None) -> list[str]:
    """The outputs worth looking at: behind each weighted layer's rectifier where it has one.

    Modules are taken in the order in which they were defined, which in a ``Sequential`` is the
    order in which they run. The last linear layer, the class scores, counts too.

    Args:
        kinds: of these weighted layers only, such as ``(nn.Conv2d,)``; None: of all.
    """
    wanted = WEIGHTED if kinds is None else kinds
    names: list[str] = []
    is_open = False  # the last weighted layer is wanted, and its rectifier has not come yet
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED):
            is_open = isinstance(module, wanted)
            if is_open:
                names.append(name)
        elif isinstance(module, RECTIFIERS) and is_open:
            names[-1] = name
            is_open = False
    return names


@contextlib.contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode, writing nothing in place and drawing nothing; then as before.

    DropConnect layers that sample their inference take its mean: the same at every look.
    """
    training = {module: module.training for module in model.modules()}
    inplace: list[Any] = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    sampling = [
        m for m in model.modules() if isinstance(m, DropConnectLinear) and m.inference != "mean"
    ]
    inference = [module.inference for module in sampling]
    try:
        model.eval()
        for module in inplace:
            module.inplace = False
        for module in sampling:
            module.inference = "mean"
        yield
    finally:
        for module in inplace:
            module.inplace = True
        for module, value in zip(sampling, inference, strict=True):
            module.inference = value
        for module, mode in training.items():
            module.training = mode


def collect(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    reduce: Callable[[Tensor], Any] = lambda output: output,
) -> dict[str, Any]:
    """Run ``model`` as far as the last of ``layers``; what they gave out, by name.

    A layer that runs several times answers with its first output. ``reduce`` is applied to each
    output at once, so that large maps need not all be kept. Gradients are recorded if the caller
    has them enabled.

    Args:
        images: (N, C, H, W), on the model's device.

    Raises:
        ValueError: no such layer, or one that did not run, or one that gave something other than
            a tensor.
    """
    found: dict[str, Any] = {}

    def listen(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if name in found:
                return
            if not isinstance(output, Tensor):
                raise ValueError(f"layer: {name} must give a tensor (got {type(output).__name__})")
            found[name] = reduce(output)
            if len(found) == len(set(layers)):
                raise _Reached

        return hook

    hooks = []
    try:
        for name in dict.fromkeys(layers):
            module = model if name == OUTPUT else find_layer(model, name)
            hooks.append(module.register_forward_hook(listen(name)))
        if hooks:
            with contextlib.suppress(_Reached):
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in found:
            raise ValueError(f"layer: {name} did not run in the model's forward")
    return {name: found[name] for name in layers}


def features(
    model: nn.Module, images: Tensor, layers: Sequence[str], reduce: Callable | None = None
) -> dict[str, Any]:
    """`collect` in evaluation mode and without gradients."""
    with torch.no_grad(), looking(model):
        return collect(model, images, layers, reduce or (lambda output: output))


def blank_image(model: nn.Module, size: Sequence[int]) -> Tensor:
    """Zeros (1, C, H, W) where the model's parameters are, and of their dtype."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *size, device=first.device, dtype=first.dtype)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
