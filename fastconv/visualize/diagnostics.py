"""Diagnostics: numbers that tell a healthy network from one that does not learn.

The checks are those of R. Fergus's NIPS 2013 tutorial: hidden units should be sparse across samples
and across features, uncorrelated and alive; gradients right and of a fit size; parameters and
operations counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import _figures
from fastconv import nn as fnn
from fastconv._layers import (
    OUTPUT,
    blank_image,
    collect,
    device_of,
    features,
    looking,
    main_layers,
)

_BINS = 40


@dataclass(frozen=True)
class LayerActivity:
    """What a layer did over a sample of images.

    Attributes:
        layer: its name.
        responses: (images, maps), the hidden unit in the middle of each map.
        zeros: share of all activations that are 0 (or below).
        dead: (maps,) bool: no activation above 0 at any position of any image.
        counts, edges: histogram of the activations above 0; what is above the last edge is counted
            in the last bin.
    """

    layer: str
    responses: np.ndarray
    zeros: float
    dead: np.ndarray
    counts: np.ndarray
    edges: np.ndarray

    @property
    def sparseness_samples(self) -> float:
        """Mean over the units that are not always silent of the `sparseness` across images."""
        live = self.responses[:, (self.responses > 0).any(0)]
        return float(np.mean(sparseness(live.T))) if live.size else float("nan")

    @property
    def sparseness_features(self) -> float:
        """Mean over images of the `sparseness` across maps."""
        return float(np.mean(sparseness(self.responses)))

    def correlations(self) -> np.ndarray:
        """Correlation coefficients of the responses, of all pairs of varying maps: (pairs,)."""
        live = self.responses[:, self.responses.std(0) > 1e-12].astype(np.float64)
        if live.shape[1] < 2 or len(live) < 2:
            return np.zeros(0)
        table = np.atleast_2d(np.corrcoef(live.T))
        return table[np.triu_indices(len(table), 1)]


def sparseness(rows: np.ndarray) -> np.ndarray:
    """Vinje & Gallant's measure (Science 2000) of each row of activations: 0 for all alike, 1 for
    one alone. Negative ones count as 0; a row of zeros has the measure 1.
    """
    rows = np.maximum(np.asarray(rows, np.float64), 0)
    count = rows.shape[1]
    if count < 2:
        return np.zeros(len(rows))
    mean_square = (rows**2).mean(1)
    flatness = np.divide(
        rows.mean(1) ** 2, mean_square, out=np.zeros(len(rows)), where=mean_square > 0
    )
    return ((1 - flatness) / (1 - 1 / count)).clip(0, 1)


def layer_activity(
    model: nn.Module,
    batches: Sequence[Tensor] | Any,
    layers: Sequence[str] | None = None,
    *,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, LayerActivity]:
    """`LayerActivity` of layers over batches of images (N, C, H, W).

    Args:
        batches: an iterable; memory holds one of them and a number for each image and map.
        layers: None: the rectified output of each weighted layer but the class scores.
        progress: called with the batches done.
    """
    if layers is None:
        layers = main_layers(model)[:-1] or main_layers(model)
    parts: dict[str, list[tuple]] = {layer: [] for layer in layers}
    edges: dict[str, np.ndarray] = {}
    for done, images in enumerate(batches, 1):
        found = features(model, images.to(device_of(model)), layers)
        for layer, output in found.items():
            output = output.float()
            middle = output
            if output.dim() == 4:
                middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
            output = output.reshape(*output.shape[:2], -1)
            if layer not in edges:
                most = float(output.max().clamp_min(1e-12))
                edges[layer] = np.linspace(0, most, _BINS + 1)
            positive = output[output > 0]
            counts = torch.histc(
                positive.clamp_max(edges[layer][-1]), _BINS, 0, float(edges[layer][-1])
            )
            parts[layer].append(
                (
                    middle.cpu().numpy(),
                    positive.numel(),
                    output.numel(),
                    (output > 0).any(2).any(0).cpu().numpy(),
                    counts.cpu().numpy().astype(np.int64),
                )
            )
        if progress is not None:
            progress(done)
    result = {}
    for layer, rows in parts.items():
        if not rows:
            raise ValueError("layer_activity: there must be at least one batch (got none)")
        responses, positive, total, alive, counts = zip(*rows, strict=True)
        result[layer] = LayerActivity(
            layer,
            np.concatenate(responses),
            1 - sum(positive) / sum(total),
            ~np.any(alive, axis=0),
            np.sum(counts, axis=0),
            edges[layer],
        )
    return result


@dataclass(frozen=True)
class ParameterScale:
    """Sizes of one parameter and of what a step would change in it; Euclidean norms."""

    name: str
    elements: int
    weight: float
    gradient: float
    update: float

    @property
    def ratio(self) -> float:
        """Update to weight; infinite for a parameter of zeros."""
        return self.update / self.weight if self.weight else float("inf")


def parameter_scales(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    lr: float,
    weight_decay: float = 0.0,
) -> list[ParameterScale]:
    """Norms of weights, of the cross entropy's gradient over a batch, and of one step of SGD.

    The step is ``lr * (gradient + weight_decay * weight)``, weights (more than one dimension) alone
    decayed; momentum m comes to add up to 1 / (1 - m) such steps. Evaluation mode, no dropout.
    """
    device = device_of(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.enable_grad(), looking(model):
        loss = F.cross_entropy(model(images.to(device)).float(), targets.to(device))
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    rows = []
    for (name, p), gradient in zip(named, gradients, strict=True):
        p = p.detach()
        gradient = torch.zeros_like(p) if gradient is None else gradient
        step = gradient + (weight_decay * p if p.dim() > 1 else 0)
        weight, slope, move = (float(x.double().norm()) for x in (p, gradient, step))
        rows.append(ParameterScale(name, p.numel(), weight, slope, lr * move))
    return rows


@dataclass(frozen=True)
class LayerCost:
    """Output shape of a layer for one image, its parameters and its multiply-adds."""

    layer: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def layer_costs(model: nn.Module, input_size: tuple[int, int, int]) -> list[LayerCost]:
    """Costs of each layer that has parameters, for one image (C, H, W). A FLOP count is twice the
    multiply-adds; biases, pooling and normalisation are not counted.
    """
    names = [
        name
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    with torch.no_grad(), looking(model):
        outputs = collect(model, blank_image(model, input_size), [*names, OUTPUT])
    rows = []
    for name in names:
        module, output = model.get_submodule(name), outputs[name]
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        macs = 0
        if isinstance(module, nn.Conv2d):
            macs = output[0].numel() * module.weight[0].numel()
        elif isinstance(module, fnn.TiledConv2d):
            macs = output[0].numel() * module.weight[0, 0, 0].numel()
        elif isinstance(module, nn.Linear):
            macs = output[0].numel() * module.in_features
        rows.append(
            LayerCost(name, type(module).__name__, tuple(output.shape[1:]), parameters, macs)
        )
    return rows


# -- figures --------------------------------------------------------------------------------------


def histogram_figure(activity: dict[str, LayerActivity]) -> Any:
    """The histogram of each layer's activations above 0."""
    columns = min(4, len(activity))
    rows = -(-len(activity) // columns)
    figure = _figures.new_figure(3.1 * columns, 2.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(activity) :]:
        axes.set_visible(False)
    for axes, (name, found) in zip(panels, activity.items(), strict=False):
        _figures.plain(axes, title=f"{name}: {100 * found.zeros:.0f} % are 0", x="activation")
        axes.stairs(found.counts, found.edges, fill=True, color=_figures.COLOURS[0])
        axes.set_yscale("log", nonpositive="clip")
    return figure


def sparseness_figure(activity: dict[str, LayerActivity]) -> Any:
    """Sparseness, dead maps and correlation, a bar for each layer."""
    figure = _figures.new_figure(10.5, 0.35 * len(activity) + 1.3)
    panels = figure.subplots(1, 4, sharey=True)
    layers = list(activity)
    found = list(activity.values())
    for axes, (title, values) in zip(
        panels,
        (
            ("sparseness across samples", [a.sparseness_samples for a in found]),
            ("sparseness across features", [a.sparseness_features for a in found]),
            ("share of dead maps", [a.dead.mean() for a in found]),
            ("mean |correlation| of maps", [_mean(np.abs(a.correlations())) for a in found]),
        ),
        strict=True,
    ):
        _figures.plain(axes, title=title)
        axes.set_xlim(0, 1)
        axes.barh(range(len(layers)), values, color=_figures.COLOURS[0], height=0.7)
    panels[0].set_yticks(range(len(layers)), layers)
    panels[0].invert_yaxis()
    return figure


def response_figure(activity: LayerActivity, *, units: int = 300) -> Any:
    """The tutorial's picture: samples from top to bottom, hidden units from left to right."""
    shown = activity.responses[:, :units]
    figure = _figures.new_figure(9, 3.6)
    axes = figure.subplots()
    limit = float(np.percentile(shown, 99.5)) or float(shown.max()) or 1.0
    picture = axes.imshow(
        shown, aspect="auto", cmap=_figures.HEAT, vmin=0, vmax=limit, interpolation="nearest"
    )
    axes.set_xlabel(f"hidden unit of {activity.layer}", fontsize=9)
    axes.set_ylabel("sample", fontsize=9)
    figure.colorbar(picture, ax=axes, label="activation")
    return figure


def scales_figure(scales: Sequence[ParameterScale]) -> Any:
    """Weight norms, gradient norms and the update-to-weight ratio, a bar for each weight."""
    weights = [s for s in scales if s.name.endswith("weight")] or list(scales)
    figure = _figures.new_figure(10.5, 0.32 * len(weights) + 1.3)
    panels = figure.subplots(1, 3, sharey=True)
    names = [s.name.removesuffix(".weight") for s in weights]
    for axes, title, values in zip(
        panels,
        ("norm of the weights", "norm of the gradient", "update / weight"),
        ([s.weight for s in weights], [s.gradient for s in weights], [s.ratio for s in weights]),
        strict=True,
    ):
        _figures.plain(axes, title=title)
        axes.plot(values, range(len(names)), "o", color=_figures.COLOURS[0], markersize=6)
        axes.set_xscale("log")
    panels[2].axvline(1e-3, color=_figures.COLOURS[1], linestyle="--", linewidth=1.2)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure


# -- the tutorial's diagnosis --------------------------------------------------------------------


def diagnose_activity(activity: dict[str, LayerActivity]) -> list[str]:
    """What dead, dense or alike feature maps mean, for the layers where they are."""
    notes = []
    dead = [
        f"{a.layer} ({a.dead.sum():,} of {len(a.dead):,})"
        for a in activity.values()
        if a.dead.any()
    ]
    if dead:
        many = max(a.dead.mean() for a in activity.values()) > 0.05
        notes.append(
            f"Dead maps in {', '.join(dead)}: no image of the sample excites them."
            + (
                " That many point to a learning rate that is or was too high, or to an "
                "initialisation out of scale."
                if many
                else " So few do no harm."
            )
        )
    else:
        notes.append("No dead maps: every one is excited by some image of the sample.")
    dense = [a.layer for a in activity.values() if a.zeros < 0.3]
    if dense:
        notes.append(
            f"Less than 30 % zeros in {', '.join(dense)}: the rectifier hardly ever cuts, and the "
            "layer is nearly linear."
        )
    silent = [a.layer for a in activity.values() if a.sparseness_samples < 0.1]
    if silent:
        notes.append(
            f"Hidden units of {', '.join(silent)} answer to all images alike (sparseness across "
            "samples below 0.1): they ignore their input. The tutorial's sign of bad training."
        )
    alike = [a.layer for a in activity.values() if _mean(np.abs(a.correlations())) > 0.5]
    if alike:
        notes.append(
            f"Maps of {', '.join(alike)} are strongly correlated (mean |r| above 0.5): they say "
            "the same thing. The tutorial's sign of bad training."
        )
    if not (dense or silent or alike):
        notes.append(
            "Hidden units are sparse across samples and features and not strongly correlated: the "
            "tutorial's sign of good training."
        )
    return notes


def diagnose_scales(scales: Sequence[ParameterScale]) -> list[str]:
    """What gradients of 0 or NaN, and steps too large or too small, mean."""
    broken = [s.name for s in scales if not np.isfinite(s.gradient) or not np.isfinite(s.weight)]
    if broken:
        return [
            f"{', '.join(broken)}: not a finite number. Training diverged: lower the learning "
            "rate, or check backward with fastconv.gradcheck_layer."
        ]
    notes = []
    still = [s.name for s in scales if s.gradient == 0]
    if still:
        notes.append(
            f"No gradient reaches {', '.join(still)}: dead units above, a part that is cut off, or "
            "a wrong backward; fastconv.gradcheck_layer checks a layer."
        )
    weights = [s for s in scales if s.name.endswith("weight")]
    large = [s.name for s in weights if s.ratio > 1e-2]
    small = [s.name for s in weights if s.ratio < 1e-5]
    if large:
        notes.append(
            f"A step changes {', '.join(large)} by more than 1 %: the learning rate is high for "
            "them; if the loss jumps, lower it."
        )
    if small:
        notes.append(
            f"A step changes {', '.join(small)} by less than a hundred-thousandth: they hardly "
            "learn. After training that is as it should be, at its start it is not."
        )
    if not (large or small or still):
        notes.append("Steps are between 0.001 % and 1 % of the weights, about the usual 0.1 %.")
    return notes


def diagnose_history(history: Sequence[dict[str, Any]]) -> list[str]:
    """What training and validation curves say: too large, too small, or not started."""
    rows = [r for r in history if r.get("train_loss") is not None and r.get("val_loss") is not None]
    if not rows:
        return ["The run has no finished epoch, so there are no curves to judge."]
    last, best = rows[-1], min(rows, key=lambda r: r["val_loss"])
    notes = []
    gap = last["train_top1"] - last["val_top1"]
    if last["val_loss"] > 1.1 * best["val_loss"]:
        notes.append(
            f"The validation loss rose after epoch {best['epoch']}: overfitting. More data, more "
            "noise in it, dropout or weight decay help, or stopping there."
        )
    elif gap > 0.1:
        notes.append(
            f"Training top-1 is {100 * gap:.0f} points above validation: the network fits the "
            "training images better than it generalises."
        )
    if len(rows) > 1 and last["train_loss"] > 0.95 * rows[0]["train_loss"]:
        notes.append(
            "The training loss hardly fell: check the gradients, try a small part of the data "
            "(its error should go to 0), another learning rate or initialisation (init=he)."
        )
    elif gap < 0.02 and last["train_top1"] < 0.9:
        notes.append(
            "Training and validation accuracy are close, and neither is high: underfitting. Train "
            "longer, or make the network larger."
        )
    return notes or ["Both losses fell and stayed together: nothing wrong to be seen here."]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
