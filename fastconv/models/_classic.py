"""Five convolutions and three fully connected layers: what the ImageNet networks of 2012 and 2013
share, and the options with which the papers and the tutorial vary them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastconv import nn as fnn
from fastconv.models._stages import (
    POOLS,
    WEIGHTED,
    CeilPad2d,
    FitMap2d,
    StagedNet,
    he_normal_,
    hidden,
    one_of,
)

_DROPPABLE = (3, 4, 5, 6, 7)
_HIDDEN_UNITS = 4096


@dataclass(frozen=True)
class Convolution:
    """A convolutional layer and what follows it.

    Attributes:
        maps: feature maps.
        kernel_size, stride, padding, groups: of the convolution.
        then: stages behind it, in order: "relu", "norm", "within" (a second norm) and "pool".
        pads: zeros at the right and bottom complete the last window, see `CeilPad2d`.
        ceil_pool: the pool's last, partial window counts.
    """

    maps: int
    kernel_size: int
    then: str = "relu"
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pads: bool = False
    ceil_pool: bool = False


@dataclass(frozen=True)
class Norms:
    """Constants of the normalisations: of `fastconv.nn.LocalResponseNorm`.

    ``within`` is a second one, over places within each map.
    """

    across: Mapping[str, Any]
    within: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Initial:
    """A paper's initial weights: Gaussians, and biases of ``bias`` in the ``positive`` layers.

    ``deviations`` names the layers whose Gaussian is not of deviation .01.
    """

    deviations: Mapping[str, float]
    positive: Collection[str] = ()
    bias: float = 0.0


class ClassicNet(StagedNet):
    """Five convolutional and three fully connected layers, in stages.

    Args:
        name: of the model, for errors.
        layers: the convolutional ones.
        norms: their normalisations.
        initial: the paper's initial weights.
        num_classes: outputs of the last layer.
        in_chans: channels of the images.
        side: height and width that the network was designed for.
        minimum_size: smallest height and width.
        init: "paper": ``initial``. "he": scaled to each layer's inputs, for small data sets.
        drop_layers: numbers of layers to leave out, of 3, 4, 5, 6 and 7. A convolutional layer goes
            with its ReLU; the pool behind conv5 stays. Zeiler & Fergus 2013, table 3, leave out
            (7,), (6, 7), (3, 4) and (3, 4, 6, 7).
        regulariser: "dropout", "dropconnect" or None: of fc6 and fc7, or a pair of them.
        p: drop probability of units or weights, one or a pair.
        dropout_scale: "train" or "test", see `fastconv.nn.Dropout`.
        pooling: "max", "avg" or "stochastic", in all pooling layers.
        norm: "lrn" (the paper's response normalisation), "contrast" (7x7 local contrast
            normalisation across maps, in its place) or None.
        tile_size: period of tiled filters (`fastconv.nn.TiledConv2d`), one for all convolutional
            layers or one for each of the five; 1: plain convolution. A layer has its square times
            as many filters.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[Convolution],
        norms: Norms,
        initial: Initial,
        num_classes: int,
        in_chans: int,
        *,
        side: int = 224,
        minimum_size: int = 64,
        init: str = "paper",
        drop_layers: Sequence[int] = (),
        regulariser: str | Sequence[str | None] | None = "dropout",
        p: float | Sequence[float] = 0.5,
        dropout_scale: str = "train",
        pooling: str = "max",
        norm: str | None = "lrn",
        tile_size: int | Sequence[int] = 1,
    ):
        one_of(name, "init", init, ("paper", "he"))
        one_of(name, "pooling", pooling, list(POOLS))
        one_of(name, "norm", norm, ("lrn", "contrast", None))
        dropped = _layer_numbers(name, drop_layers)
        tiles = _for_each(name, "tile_size", tile_size, len(layers))
        if any(not isinstance(t, int) or t < 1 for t in tiles):
            raise ValueError(f"{name}: tile_size must be at least 1 (got tile_size={tile_size})")
        regularisers = _for_each(name, "regulariser", regulariser, 2)
        probabilities = _for_each(name, "p", p, 2)

        stages: dict[str, nn.Module] = {}
        maps = in_chans
        for number, (layer, tile) in enumerate(zip(layers, tiles, strict=True), 1):
            keeps = number not in dropped
            if keeps:
                stages |= _convolution(number, layer, maps, tile)
                maps = layer.maps
            for stage in layer.then.split():
                if stage == "pool":
                    stages[f"pool{number}"] = POOLS[pooling](3, 2, ceil_mode=layer.ceil_pool)
                elif stage == "relu" and keeps:
                    stages[f"relu{number}"] = nn.ReLU()
                elif stage != "relu":
                    stages |= _norm(stage, number, norms, norm)
        stages |= {"fit6": FitMap2d(6), "flatten": nn.Flatten()}
        units = maps * 6 * 6
        for number, kind, probability in zip((6, 7), regularisers, probabilities, strict=True):
            if number not in dropped:
                stages |= hidden(
                    name, number, units, _HIDDEN_UNITS, kind, probability, dropout_scale
                )
                units = _HIDDEN_UNITS
        stages["fc8"] = fnn.Linear(units, num_classes)
        super().__init__(
            stages,
            input_size=(in_chans, side, side),
            num_classes=num_classes,
            minimum_size=minimum_size,
            input_units="pixels" if init == "paper" else "std",
        )
        self._init, self._initial = init, initial
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights anew, as ``init`` says."""
        if self._init == "he":
            he_normal_(self)
            return
        initial = self._initial
        for name, layer in self.named_children():
            if isinstance(layer, WEIGHTED):
                nn.init.normal_(layer.weight, std=initial.deviations.get(name, 0.01))
                positive = name in initial.positive
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, initial.bias if positive else 0.0)


def _convolution(number: int, layer: Convolution, inputs: int, tile: int) -> dict[str, nn.Module]:
    window: dict[str, Any] = dict(stride=layer.stride, padding=layer.padding, groups=layer.groups)
    sizes = (inputs, layer.maps, layer.kernel_size)
    stages: dict[str, nn.Module] = {}
    if layer.pads:
        stages[f"pad{number}"] = CeilPad2d(layer.kernel_size, layer.stride)
    tiled = tile > 1
    stages[f"conv{number}"] = (
        fnn.TiledConv2d(*sizes, tile, **window) if tiled else fnn.Conv2d(*sizes, **window)
    )
    return stages


def _norm(stage: str, number: int, norms: Norms, norm: str | None) -> dict[str, nn.Module]:
    if norm == "lrn":
        constants = norms.across if stage == "norm" else norms.within
        return {f"{stage}{number}": fnn.LocalResponseNorm(**(constants or {}))}
    if norm == "contrast" and stage == "norm":
        return {f"norm{number}": fnn.LocalContrastNorm(7)}
    return {}


def _layer_numbers(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    numbers = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    if len(set(numbers)) < len(numbers) or not set(numbers) <= set(_DROPPABLE):
        raise ValueError(
            f"{name}: drop_layers must be distinct numbers of {', '.join(map(str, _DROPPABLE))} "
            f"(got drop_layers={numbers})"
        )
    return numbers


def _for_each(name: str, option: str, value: Any, count: int) -> list[Any]:
    """One value for each of `count` layers, from one for all or a sequence."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}: {option} must be one value or {count} of them (got {option}={value!r})"
        )
    return list(value)
