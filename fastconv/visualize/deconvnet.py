"""The deconvnet: what in the image excited a feature map, as a picture.

Zeiler & Fergus, arXiv:1311.2901, section 2.1 (deconvnet); Springenberg et al., arXiv:1412.6806
(guided); Simonyan et al., arXiv:1312.6034 (gradient).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import nn as fnn
from fastconv import ops
from fastconv._layers import RECTIFIERS, collect, device_of, find_layer, looking
from fastconv.convert import NormalisedMaxPool2d
from fastconv.ops._arguments import pair

_BACKWARDS = ("deconvnet", "guided", "gradient")
_UNPOOLS = ("accumulate", "overwrite")
_NORMS = ("skip", "gradient")
_STOCHASTIC = ("max", "sample")
_NORM_LAYERS = (nn.LocalResponseNorm, fnn.LocalContrastNorm)


class Projection(NamedTuple):
    """What a `Deconvnet` gives.

    ``pixels`` (N, C, H, W): the projections, in the units of the images. ``maps`` (N,): the feature
    maps. ``values`` (N,): the activation that was projected, the largest one for a whole map.
    ``positions`` (N, 2): its row and column in the map; 0, 0 for fully connected layers.
    """

    pixels: Tensor
    maps: Tensor
    values: Tensor
    positions: Tensor


class Deconvnet:
    """Projects feature maps of any layer back to pixels.

    All activations but the chosen one are set to zero and sent back through the layers: unpooling
    through the switches that pooling recorded, rectifying, convolving with the transposed filters
    (without biases). The way back is the network's backward pass with other rules at three kinds
    of layers, so networks may branch; what is not named below passes its signal back as gradients
    go.

    ==============================  ==============================================================
    ``nn.ReLU``, fused ReLUs        deconvnet: keeps what is positive of the signal. guided: only
                                    where the activation was positive, too. gradient: keeps the
                                    signal where the activation was positive.
    ``MaxPool2d``                   unpooling through the switches.
    ``fastconv.nn.StochasticPool2d``  the same, with the switches that ``stochastic`` says.
    ``LocalResponseNorm``,          passed over, as the paper does ("skip"), or their derivative
    ``LocalContrastNorm``           ("gradient").
    ==============================  ==============================================================

    The network runs in evaluation mode, DropConnect with its mean inference, and is left as it was:
    its parameters get no gradients.

    Args:
        model: a network of layers as modules, ``torch.nn``'s or fastconv's, images in.
        backward: "deconvnet", "guided" or "gradient", see above.
        unpool: where overlapping windows share a maximum, their signals are added ("accumulate"),
            or the last one stays ("overwrite"). The last one may be a zero of a neighbouring
            window, so that overwriting can lose a single activation.
        norms: "skip" or "gradient"; None: "skip" for the deconvnet, "gradient" for the others.
        stochastic: "max": stochastic pooling gives its mean, as at test time, and goes back to the
            likeliest element. "sample": it draws as in training and goes back to what was drawn.
        generator: for "sample"; None: torch's default one.

    Raises:
        ValueError: an option that is none of these.
    """

    def __init__(
        self,
        model: nn.Module,
        backward: str = "deconvnet",
        *,
        unpool: str = "accumulate",
        norms: str | None = None,
        stochastic: str = "max",
        generator: torch.Generator | None = None,
    ):
        if norms is None:
            norms = "skip" if backward == "deconvnet" else "gradient"
        for name, value, known in (
            ("backward", backward, _BACKWARDS),
            ("unpool", unpool, _UNPOOLS),
            ("norms", norms, _NORMS),
            ("stochastic", stochastic, _STOCHASTIC),
        ):
            if value not in known:
                raise ValueError(
                    f"Deconvnet: {name} must be {' or '.join(map(repr, known))} "
                    f"(got {name}={value!r})"
                )
        self.model = model
        self.backward = backward
        self.unpool = unpool
        self.norms = norms
        self.stochastic = stochastic
        self.generator = generator

    def __call__(
        self,
        images: Tensor,
        layer: str,
        maps: int | Sequence[int] | Tensor | None = None,
        at: str | Sequence | Tensor = "max",
        *,
        signal: str = "activation",
    ) -> Projection:
        """Project one feature map of each image.

        Args:
            images: (N, C, H, W), as the network takes them; or one image (C, H, W).
            layer: the name of the layer whose output it is, as in ``model.named_modules()``.
            maps: the feature map (output unit of a fully connected layer) of every image, or one
                for all; None: each image's most excited one.
            at: "max": the largest activation of the map; "all": the whole map; or a row and column
                for all images, or a tensor (N, 2) of them.
            signal: what is sent back: the "activation", or "one" in its place.

        Raises:
            ValueError: no such layer, map or position; a network that rectifies by a function
                call, which cannot be seen from outside: ``nn.ReLU`` layers can.
        """
        if signal not in ("activation", "one"):
            raise ValueError(
                f"Deconvnet: signal must be 'activation' or 'one' (got signal={signal!r})"
            )
        images = images.unsqueeze(0) if images.dim() == 3 else images
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(
                "Deconvnet: images must be floating point of shape (N, C, H, W) or (C, H, W) "
                f"(got {images.dtype} {tuple(images.shape)})"
            )
        find_layer(self.model, layer)
        images = images.detach().to(device_of(self.model)).requires_grad_()
        with torch.enable_grad(), looking(self.model), self._rules():
            output = collect(self.model, images, [layer])[layer]
            if output.dim() not in (2, 4) or len(output) != len(images):
                raise ValueError(
                    f"Deconvnet: {layer} must give (N, maps) or (N, maps, H, W) "
                    f"(got {tuple(output.shape)})"
                )
            self._require_rules(output, layer)
            flat = output.reshape(*output.shape[:2], -1)
            maps = _maps(maps, flat, layer)
            chosen = flat[torch.arange(len(flat)), maps]  # (N, H * W)
            width = output.shape[3] if output.dim() == 4 else 1
            where = _where(at, chosen, width, layer)
            start = torch.zeros_like(chosen)
            sent = torch.ones_like(chosen) if signal == "one" else chosen.detach()
            if where is None:
                start, where = sent, chosen.argmax(1)
            else:
                start.scatter_(1, where[:, None], sent.gather(1, where[:, None]))
            (pixels,) = torch.autograd.grad(chosen, images, start)
        values = chosen.detach().gather(1, where[:, None])[:, 0]
        positions = torch.stack([where // width, where % width], 1)
        return Projection(pixels, maps, values, positions)

    # -- the rules --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _rules(self) -> Iterator[None]:
        """Hooks that leave each layer's output as it is and replace its way back."""
        hooks: list[Any] = []
        fused: list[Any] = []
        try:
            for module in self.model.modules():
                if rule := self._rule_of(module):
                    if getattr(module, "activation", None) == "relu":
                        fused.append(module)
                        fused[-1].activation = "none"  # the rule rectifies in its place
                    hooks.append(module.register_forward_hook(rule))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in fused:
                module.activation = "relu"

    def _rule_of(self, module: nn.Module) -> Callable | None:
        if isinstance(module, RECTIFIERS):
            return None if self.backward == "gradient" else self._rectify
        fusing = fnn.Conv2d | fnn.Linear | fnn.DropConnectLinear
        if isinstance(module, fusing) and module.activation == "relu":
            return None if self.backward == "gradient" else self._rectify_fused
        if isinstance(module, NormalisedMaxPool2d) and (
            self.norms == "skip" or self.unpool == "overwrite"
        ):
            raise ValueError(
                f"Deconvnet: norms={self.norms!r} with unpool={self.unpool!r} needs normalisations "
                "that stand alone; take the model as it was before fastconv.fuse"
            )
        if isinstance(module, nn.MaxPool2d):
            # To accumulate is what the gradient of pooling does.
            return self._unpool if self.unpool == "overwrite" else None
        if isinstance(module, fnn.StochasticPool2d):
            return self._unpool_stochastic
        if isinstance(module, _NORM_LAYERS) and self.norms == "skip":
            return _pass_over
        return None

    def _rectify(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        if self.backward == "deconvnet":
            return _replace(inputs[0], output, F.relu)
        active = output.detach() > 0
        return _replace(inputs[0], output, lambda signal: F.relu(signal) * active)

    def _rectify_fused(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return self._rectify(module, (output,), F.relu(output.detach()))

    def _unpool(self, module: nn.MaxPool2d, inputs: tuple, output: Any) -> Any:
        if not isinstance(output, Tensor):  # return_indices=True
            return None
        if pair("Deconvnet", "dilation", module.dilation) != [1, 1]:
            raise ValueError(
                "Deconvnet: unpool='overwrite' needs pools without dilation "
                f"(got dilation={module.dilation})"
            )
        window = (module.kernel_size, module.stride, module.padding)
        _, switches = ops.max_pool2d_with_switches(inputs[0].detach(), *window, module.ceil_mode)
        return _replace(inputs[0], output, self._unpooling(inputs[0], switches, window))

    def _unpool_stochastic(
        self, module: fnn.StochasticPool2d, inputs: tuple, output: Tensor
    ) -> Tensor:
        x = inputs[0].detach()
        window = (module.kernel_size, module.stride, module.padding)
        if self.stochastic == "sample":
            output, switches = ops.stochastic_pool2d(
                x, *window, module.ceil_mode, return_switches=True, generator=self.generator
            )
        else:
            _, switches = ops.max_pool2d_with_switches(x, *window, module.ceil_mode)
        return _replace(inputs[0], output, self._unpooling(x, switches, window))

    def _unpooling(self, x: Tensor, switches: Tensor, window: tuple) -> Callable[[Tensor], Tensor]:
        size = x.shape[-2:]
        return lambda signal: ops.max_unpool2d(
            signal, switches, *window, output_size=size, mode=self.unpool
        )

    def _require_rules(self, output: Tensor, layer: str) -> None:
        """Refuse a rectification that no rule has replaced: the picture would be another one."""
        if self.backward == "gradient":
            return
        todo, seen = [output.grad_fn], set()
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name().startswith(("ReluBackward", "ThresholdBackward", "HardtanhBackward")):
                raise ValueError(
                    f"Deconvnet: below {layer} the model rectifies by a function call, which "
                    f"backward={self.backward!r} cannot replace; use nn.ReLU layers in it"
                )
            todo.extend(parent for parent, _ in node.next_functions)


class _Replaced(torch.autograd.Function):
    """``output`` on the way up; ``step(signal)``, sent to ``input``, on the way down."""

    @staticmethod
    def forward(ctx, input: Tensor, output: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.step = step
        return output.clone()

    @staticmethod
    def backward(ctx, signal: Tensor):
        return ctx.step(signal), None, None


def _replace(input: Tensor, output: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    return _Replaced.apply(input, output.detach(), step)  # detached: its own way back is no more


def _pass_over(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return _replace(inputs[0], output, lambda signal: signal)


def _maps(maps: Any, flat: Tensor, layer: str) -> Tensor:
    """The feature map of every image, (N,), from activations (N, maps, positions)."""
    count = flat.shape[1]
    if maps is None:
        return flat.detach().amax(2).argmax(1)
    maps = torch.as_tensor(maps, device=flat.device)
    if maps.dtype.is_floating_point or maps.dim() > 1 or maps.numel() not in (1, len(flat)):
        raise ValueError(
            f"Deconvnet: maps must be an int or one for each of {len(flat)} images "
            f"(got {tuple(maps.shape)} of {maps.dtype})"
        )
    if maps.min() < 0 or maps.max() >= count:
        raise ValueError(
            f"Deconvnet: maps must be from 0 to {count - 1} in {layer} (got {maps.tolist()})"
        )
    return maps.long().expand(len(flat))


def _where(at: Any, chosen: Tensor, width: int, layer: str) -> Tensor | None:
    """Which of the map's positions (N, positions) is sent back, (N,); None: all."""
    if isinstance(at, str):
        if at not in ("max", "all"):
            raise ValueError(f"Deconvnet: at must be 'max', 'all' or positions (got at={at!r})")
        return chosen.detach().argmax(1) if at == "max" else None
    at = torch.as_tensor(at, device=chosen.device)
    if at.shape not in ((2,), (len(chosen), 2)) or at.dtype.is_floating_point:
        raise ValueError(
            f"Deconvnet: at must be a row and a column, or ({len(chosen)}, 2) of them "
            f"(got {tuple(at.shape)} of {at.dtype})"
        )
    at = at.long().expand(len(chosen), 2)
    height = chosen.shape[1] // width
    if at.min() < 0 or at[:, 0].max() >= height or at[:, 1].max() >= width:
        raise ValueError(
            f"Deconvnet: at must be inside {layer}'s maps of {height}x{width} (got {at.tolist()})"
        )
    return at[:, 0] * width + at[:, 1]
