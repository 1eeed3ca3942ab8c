"""The first layer's filters, and two measures of what is wrong with them.

Zeiler & Fergus, arXiv:1311.2901, section 4.1, found by looking that AlexNet's first layer of 11x11
filters, 4 apart, mixes very high and low frequencies with little between and some dead filters,
and that the step of 4 leads to aliasing in the second layer; 7x7 filters, 2 apart, mend both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastconv import _figures
from fastconv._layers import CONVOLUTIONS
from fastconv.ops._arguments import as_pair, pair
from fastconv.visualize.pictures import enlarge, grid, signed_picture

_SPECTRUM = 64  # points of the spectrum along an axis; filters are padded with zeros to it


@dataclass(frozen=True)
class FilterMeasures:
    """Numbers about a layer's filters.

    Attributes:
        layer: its name.
        kernel_size, stride: (height, width), in pixels.
        rms: (filters,), root of the mean squared weight of each.
        dead: (filters,) bool: RMS below ``threshold`` times the filters' median.
        threshold: see there.
        beyond: (filters,), share of each filter's power at spatial frequencies above half the
            output's sampling rate, 1 / (2 stride) in either direction, which alias.
        beyond_all: the same share of all filters' power together.
        beyond_noise: that share of white noise, filters without any structure.
        smoothness: (filters,), the correlation of each filter's neighbouring weights: near 0 for
            noise, near 1 for smooth edges and blobs.
        spectrum: (64, 64), mean power of the filters, frequency 0 in the middle.
    """

    layer: str
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    rms: np.ndarray
    dead: np.ndarray
    threshold: float
    beyond: np.ndarray
    beyond_all: float
    beyond_noise: float
    smoothness: np.ndarray
    spectrum: np.ndarray

    @property
    def dead_share(self) -> float:
        """Share of the filters that are dead."""
        return float(self.dead.mean())

    @property
    def noisy_share(self) -> float:
        """Share of the filters that look like noise: a `smoothness` of less than 0.2 either way."""
        return float((np.abs(self.smoothness) < 0.2).mean())

    def figure(self) -> Any:
        """The mean spectrum with the border of what the stride carries, and the filters' RMS."""
        figure = _figures.new_figure(8, 3.6)
        left, right = figure.subplots(1, 2)
        edge = (-0.5, 0.5, 0.5, -0.5)
        power = 10 * np.log10(self.spectrum / self.spectrum.max() + 1e-6)
        shown = _figures.image(
            left, power, title="mean power, dB", cmap=_figures.HEAT, vmin=-30, vmax=0, extent=edge
        )
        figure.colorbar(shown, ax=left, shrink=0.8)
        y, x = (1 / (2 * s) for s in self.stride)
        left.plot([-x, x, x, -x, -x], [-y, -y, y, y, -y], color="white", linewidth=1.5)
        left.set_xticks([-0.5, 0, 0.5])
        left.set_yticks([-0.5, 0, 0.5])
        left.set_xlabel("cycles a pixel; inside the box: carried by the stride", fontsize=8)
        left.tick_params(labelsize=8)
        axes = _figures.plain(right, title="RMS of the filters, sorted", x="filter", y="RMS")
        axes.plot(np.sort(self.rms)[::-1], color=_figures.COLOURS[0], marker=".", markersize=4)
        axes.axhline(
            self.threshold * np.median(self.rms), color=_figures.COLOURS[1], linestyle="--"
        )
        axes.set_ylim(bottom=0)
        return figure


def first_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the first convolution.

    Raises:
        ValueError: the model has none.
    """
    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):
            return name, module
    raise ValueError(f"filters: the model must have a convolution (got {type(model).__name__})")


def first_layer_filters(model: nn.Module) -> Tensor:
    """The first convolution's weights (filters, C, kh, kw); of a tiled one those of all tiles."""
    weight = first_layer(model)[1].get_parameter("weight").detach()
    return weight.flatten(0, 2) if weight.dim() == 6 else weight


def filters_picture(
    filters: Tensor, *, scale: str = "each", columns: int | None = None, side: int = 44
) -> np.ndarray:
    """Filters (N, C, kh, kw) as a grid, grey for 0.

    Args:
        scale: "each" filter has its own contrast; "all" share one, so that weak ones look weak.
        side: about how many pixels each becomes.
    """
    if scale not in ("each", "all"):
        raise ValueError(f"filters_picture: scale must be 'each' or 'all' (got scale={scale!r})")
    limit = float(filters.abs().max()) if scale == "all" else None
    shown = [signed_picture(f, float(f.abs().max()) if limit is None else limit) for f in filters]
    return grid([enlarge(picture, side) for picture in shown], columns, gap=3)


def filter_measures(model: nn.Module, *, threshold: float = 0.1) -> FilterMeasures:
    """`FilterMeasures` of the first convolution.

    Args:
        threshold: a filter is dead whose RMS is below this share of the median.
    """
    name, module = first_layer(model)
    weight = first_layer_filters(model).double().cpu().numpy()
    stride = as_pair(pair("filters", "stride", getattr(module, "stride", 1)))
    rms = np.sqrt((weight**2).mean((1, 2, 3)))
    size = max(_SPECTRUM, *weight.shape[2:])
    power = (np.abs(np.fft.fft2(weight, (size, size))) ** 2).sum(1)
    frequency = np.abs(np.fft.fftfreq(size))
    carried = [_carried(frequency, s) for s in stride]
    outside = 1 - carried[0][:, None] * carried[1]
    total = power.sum((1, 2))
    beyond = (power * outside).sum((1, 2)) / np.maximum(total, 1e-300)
    return FilterMeasures(
        layer=name,
        kernel_size=tuple(weight.shape[2:]),
        stride=stride,
        rms=rms,
        dead=rms < threshold * np.median(rms),
        threshold=threshold,
        beyond=beyond,
        beyond_all=float((power * outside).sum() / max(total.sum(), 1e-300)),
        beyond_noise=float(outside.mean()),
        smoothness=_smoothness(weight),
        spectrum=np.fft.fftshift(power.mean(0)),
    )


def _smoothness(weight: np.ndarray) -> np.ndarray:
    """Each filter's products of neighbouring weights against its squares, both per element."""
    square = np.maximum((weight**2).mean((1, 2, 3)), 1e-300)
    pairs = [
        (weight[:, :, 1:] * weight[:, :, :-1]).reshape(len(weight), -1),
        (weight[:, :, :, 1:] * weight[:, :, :, :-1]).reshape(len(weight), -1),
    ]
    return np.concatenate(pairs, 1).mean(1) / square if max(weight.shape[2:]) > 1 else square * 0


def _carried(frequency: np.ndarray, stride: int) -> np.ndarray:
    """1 where a stride carries a frequency, 0 beyond, and a half at the very border."""
    if stride == 1:
        return np.ones_like(frequency)
    border = 1 / (2 * stride)
    return np.where(np.isclose(frequency, border), 0.5, frequency < border)
