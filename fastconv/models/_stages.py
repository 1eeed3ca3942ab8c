"""What the classic networks have in common: named stages that run one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import nn as fnn
from fastconv.ops._arguments import pair

# glibc's malloc gives blocks of 32 MB and more back to the system at once, and to touch fresh
# memory costs more than to compute what goes there. This much stays clear of that.
_LASTING_BYTES = 24 << 20


class StagedNet(nn.Sequential):
    """A network whose children are its stages, by the papers' names: conv1, relu1, norm1, ...

    Running the network is running the children in order, so that a stage can be addressed,
    replaced or left out by its name, and features can be taken after any of them: no stage writes
    into its input. A slice is a plain ``Sequential`` of the stages, with their names; deleting
    stages leaves the others theirs.

    Attributes:
        input_size: (C, H, W) that the network was designed for. Other heights and widths work
            from ``minimum_size`` on.
        num_classes: outputs of the last stage.
        input_units: what the initial weights are made for: "pixels", grey levels of 0 to 255 minus
            their mean, or "std", inputs with a spread of 1.
        minimum_size: smallest height and width, in pixels.
    """

    def __init__(
        self,
        stages: dict[str, nn.Module],
        *,
        input_size: tuple[int, int, int],
        num_classes: int,
        minimum_size: int,
        input_units: str = "std",
    ):
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.input_size = input_size
        self.num_classes = num_classes
        self.minimum_size = minimum_size
        self.input_units = input_units

    def __getitem__(self, index: int | slice) -> nn.Module:
        # Sequential would build the slice with this class, whose constructor wants other arguments.
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __delitem__(self, index: int | slice) -> None:
        # Sequential would number the stages that remain.
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [names[index]]:
            delattr(self, name)

    def forward(self, input: Tensor) -> Tensor:
        """Images (N, C, H, W) to class scores (N, num_classes)."""
        channels = self.input_size[0]
        if input.dim() != 4 or input.shape[1] != channels:
            raise ValueError(
                f"{type(self).__name__}: images must have shape (N, {channels}, H, W) "
                f"(got {tuple(input.shape)})"
            )
        if min(input.shape[2:]) < self.minimum_size:
            raise ValueError(
                f"{type(self).__name__}: images must be at least {self.minimum_size} pixels high "
                f"and wide (got {input.shape[2]}x{input.shape[3]})"
            )
        together = self._images_together(input)
        if together >= input.shape[0]:
            return super().forward(input)
        first = len(self._first_stages())
        pooled = [self[:first](images) for images in input.split(together)]
        return self[first:](torch.cat(pooled))

    def _first_stages(self) -> list[nn.Module]:
        """Up to the first max pool, if all of them treat every image by itself."""
        stages: list[nn.Module] = []
        for stage in self:
            stages.append(stage)
            if isinstance(stage, nn.MaxPool2d):
                return stages
            if not isinstance(stage, _BY_IMAGE):
                break
        return []

    def _images_together(self, input: Tensor) -> int:
        """How many images the stages up to the first pool may take at a time: as many as keep their
        maps out of memory fresh from the system. All where anything is recorded, or where a
        hook would see the parts."""
        batch = input.shape[0]
        if self.training or input.device.type != "cpu" or torch.compiler.is_compiling():
            return batch
        stages = self._first_stages()
        layers = [layer for layer in stages if isinstance(layer, nn.Conv2d)]
        if not layers or any(m._forward_hooks or m._forward_pre_hooks for m in stages):
            return batch
        learns = (t.requires_grad for t in (input, *self.parameters()))
        if torch.is_grad_enabled() and any(learns):
            return batch
        height, width = pair("conv2d", "stride", layers[0].stride)
        pixels = input.shape[2] * input.shape[3] // (height * width)  # of a map, about
        image_bytes = layers[0].out_channels * pixels * input.element_size()
        return max(1, _LASTING_BYTES // max(1, image_bytes))


class CeilPad2d(nn.Module):
    """Zeros at the right and bottom, so that a convolution's last, partial window counts too.

    The original code sizes its maps 1 + ceil((W - kernel_size) / stride); convolution here, as
    everywhere else, rounds down.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, input: Tensor) -> Tensor:
        bottom, right = ((self.kernel_size - size) % self.stride for size in input.shape[2:])
        return F.pad(input, (0, right, 0, bottom))

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


_BY_IMAGE = (CeilPad2d, nn.Conv2d, nn.ReLU, nn.LocalResponseNorm, nn.Identity)


class FitMap2d(nn.Module):
    """Average pooling to size x size; nothing at all where the map has that size already.

    Lets the fully connected stages follow maps of another size than they were designed for.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2] == self.size and input.shape[3] == self.size:
            return input
        return F.adaptive_avg_pool2d(input, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


# Layers that weigh their inputs: what an initialisation draws.
WEIGHTED = (nn.Conv2d, nn.Linear, fnn.TiledConv2d)
POOLS = {"max": fnn.MaxPool2d, "avg": fnn.AvgPool2d, "stochastic": fnn.StochasticPool2d}
REGULARISERS = (None, "dropout", "dropconnect")


def hidden(
    model: str,
    number: int,
    inputs: int,
    outputs: int,
    regulariser: str | None,
    p: float,
    scale: str,
) -> dict[str, nn.Module]:
    """Stages of a fully connected layer of ReLUs under a regulariser.

    Args:
        model: its name, for errors.
        number: of the layer.
        inputs, outputs: units.
        regulariser: None, "dropout" or "dropconnect" (bias masked too, sampled inference, the ReLU
            inside the layer).
        p: probability with which a unit or a weight is dropped.
        scale: of dropout, see `fastconv.nn.Dropout`.
    """
    one_of(model, "regulariser", regulariser, REGULARISERS)
    one_of(model, "dropout_scale", scale, ("train", "test"))
    if not 0 <= p <= 1:
        raise ValueError(f"{model}: p must be a probability within [0, 1] (got p={p})")
    if regulariser == "dropconnect":
        layer = fnn.DropConnectLinear(
            inputs, outputs, p=p, mask_bias=True, activation="relu", inference="gaussian"
        )
        return {f"fc{number}": layer}
    stages = {f"fc{number}": fnn.Linear(inputs, outputs), f"relu{number}": nn.ReLU()}
    if regulariser == "dropout":
        stages[f"drop{number}"] = fnn.Dropout(p, scale=scale)
    return stages


def he_normal_(model: nn.Module) -> None:
    """He et al. (ICCV 2015): weights N(0, 2 / fan_in), biases 0; the last layer N(0, 0.01^2).

    Lets these networks start to learn at once on small data sets too, where the papers' own
    initialisation can rest on its plateau for many epochs.
    """
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    for layer in layers:
        tiled = isinstance(layer, fnn.TiledConv2d)
        fan_in = (layer.weight[0, 0, 0] if tiled else layer.weight[0]).numel()
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01)


def one_of(model: str, option: str, value: object, known: Sequence[object]) -> None:
    """Refuse a value of a model's option that is none of the known ones."""
    if value not in known:
        words = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
        raise ValueError(f"{model}: {option} must be {words} (got {option}={value!r})")
