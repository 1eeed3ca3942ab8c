"""The pages about training: diagnostics and the evolution of features."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch

from fastconv.visualize import diagnostics
from fastconv.visualize.evolution import evolution
from fastconv.visualize.report import Report
from fastconv.visualize.top_patches import Spread, spread_maps, top_activations

_SAMPLE = 256  # images for activations; they are all in memory
_GRADIENT_SAMPLE = 64


def diagnostics_page(report: Report) -> None:
    """The tutorial's checks: activations, gradients, curves, size."""
    page = report.page(
        "Diagnostics",
        "Is the network healthy? Each plot stands beside the diagnosis that R. Fergus's NIPS 2013 "
        "tutorial gives for it.",
    )
    _curves(report, page)
    inputs, targets = _sample(report)
    _activations(report, page, inputs)
    _scales(report, page, inputs[:_GRADIENT_SAMPLE], targets[:_GRADIENT_SAMPLE])
    _costs(report, page)
    page.heading("Gradients of a layer of your own")
    page.text(
        "fastconv.gradcheck_layer(layer, input) compares backward with finite differences for "
        "every input and parameter; print what it returns."
    )
    report.write(page, "diagnostics")


def _sample(report: Report) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = Spread(report.dataset, min(report.options.limit or _SAMPLE, _SAMPLE))
    samples = [s for i in range(len(chosen)) if (s := chosen[i]) is not None]
    # In an order that mixes the classes, so that a part of the sample has all of them.
    order = np.random.default_rng(0).permutation(len(samples))
    return (
        torch.stack([samples[i][0] for i in order]),
        torch.tensor([samples[i][1] for i in order]),
    )


def _curves(report: Report, page) -> None:
    page.heading("Training and validation")
    curves = report.run.path / "curves.png"
    if curves.exists():
        path = report.place("diagnostics", "curves.png")
        shutil.copyfile(curves, path)
        page.picture(
            path,
            report.folder,
            "Curves over epochs: training and validation loss, accuracies, learning rate",
        )
    for note in diagnostics.diagnose_history(report.run.history):
        page.note(note)


def _activations(report: Report, page, inputs: torch.Tensor) -> None:
    batches = inputs.split(report.options.batch_size)
    update = report.stretch("activations")
    found = diagnostics.layer_activity(
        report.model,
        batches,
        report.options.layers,
        progress=lambda done: update(done, len(batches)),
    )
    page.heading("Hidden units: sparse, alive, different?")
    page.text(
        f"Over {len(inputs)} validation images. Sparseness is Vinje & Gallant's: 0 where all "
        "answer alike, 1 where one alone does, for each map across the images and for each image "
        "across the maps."
    )
    page.picture(
        report.figure(diagnostics.sparseness_figure(found), "diagnostics", "sparseness.png"),
        report.folder,
        "Bars for each layer: sparseness across samples, across features, share of dead maps, mean "
        "absolute correlation of maps",
    )
    for note in diagnostics.diagnose_activity(found):
        page.note(note)
    last = list(found.values())[-1]
    page.picture(
        report.figure(diagnostics.response_figure(last), "diagnostics", "responses.png"),
        report.folder,
        f"Activations of {last.layer}: a row for each sample, a column for each hidden unit",
        "Good: sparse in both directions, no structure. Bad: columns that are bright for all "
        "samples (units that ignore their input), or columns that look alike.",
    )
    page.heading("Activations")
    page.picture(
        report.figure(diagnostics.histogram_figure(found), "diagnostics", "histograms.png"),
        report.folder,
        "For each layer a histogram of its activations above 0, on a logarithmic scale",
        "Good: falling smoothly over a range that is used. Bad: all at one value, or nothing at "
        "all.",
    )
    report.table(
        [
            "layer", "maps", "zeros", "dead", "sparseness_samples", "sparseness_features",
            "mean_abs_correlation", "pairs_above_0.9",
        ],
        [_activity_row(a) for a in found.values()],
        "diagnostics",
        "activations.csv",
    )  # fmt: skip
    report.arrays(
        "diagnostics",
        "responses.npz",
        **{name.replace(".", "_"): a.responses for name, a in found.items()},
    )


def _activity_row(a: diagnostics.LayerActivity) -> list:
    pairs = np.abs(a.correlations())
    return [
        a.layer,
        len(a.dead),
        a.zeros,
        int(a.dead.sum()),
        a.sparseness_samples,
        a.sparseness_features,
        pairs.mean() if pairs.size else 0.0,
        (pairs > 0.9).mean() if pairs.size else 0.0,
    ]


def _scales(report: Report, page, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    settings = report.run.config["settings"]
    lr, decay = settings.get("lr", 0.01), settings.get("weight_decay", 0.0)
    found = diagnostics.parameter_scales(report.model, inputs, targets, lr=lr, weight_decay=decay)
    page.heading("Weights, gradients, steps")
    page.text(
        f"Over a batch of {len(inputs)} validation images, with the run's learning rate of {lr:g} "
        f"and weight decay of {decay:g}; momentum {settings.get('momentum', 0):g} makes steps up "
        f"to {1 / (1 - settings.get('momentum', 0)):.3g} times as long. The dashed line is at the "
        "usual ratio of a thousandth."
    )
    page.picture(
        report.figure(diagnostics.scales_figure(found), "diagnostics", "scales.png"),
        report.folder,
        "For each layer's weights: their norm, their gradient's norm, and the ratio of one step to "
        "the weights, on logarithmic scales",
    )
    for note in diagnostics.diagnose_scales(found):
        page.note(note)
    report.table(
        ["parameter", "elements", "weight_norm", "gradient_norm", "update_norm", "ratio"],
        [(s.name, s.elements, s.weight, s.gradient, s.update, s.ratio) for s in found],
        "diagnostics",
        "scales.csv",
    )


def _costs(report: Report, page) -> None:
    rows = diagnostics.layer_costs(report.model, tuple(report.run.config["input_size"]))
    parameters, macs = sum(r.parameters for r in rows), sum(r.macs for r in rows)
    page.heading("Size")
    page.text(
        f"{parameters:,} parameters and {macs / 1e6:,.1f} million multiply-adds an image (twice as "
        "many floating point operations). Too slow: look where the multiply-adds are. Underfitting:"
        " a larger network has more of both."
    )
    header = ["layer", "kind", "output", "parameters", "share", "million multiply-adds", "share"]
    page.table(
        header,
        [
            (
                r.layer,
                r.kind,
                "x".join(map(str, r.output)),
                f"{r.parameters:,}",
                f"{100 * r.parameters / max(1, parameters):.1f} %",
                f"{r.macs / 1e6:,.1f}",
                f"{100 * r.macs / max(1, macs):.1f} %",
            )
            for r in rows
        ],
    )
    report.table(
        ["layer", "kind", "output", "parameters", "macs"],
        [(r.layer, r.kind, "x".join(map(str, r.output)), r.parameters, r.macs) for r in rows],
        "diagnostics",
        "costs.csv",
    )


def evolution_page(report: Report) -> None:
    """How the projections of some maps developed over the run's snapshots."""
    options, run = report.options, report.run
    if not run.snapshots:
        raise ValueError(
            f"evolution: {run.path} has no snapshots; train with --snapshots 1,2,5,10 to keep some"
        )
    layers = report.conv_layers()
    epochs = ", ".join(map(str, run.snapshots))
    page = report.page(
        "Evolution of features",
        f"Snapshots after epochs {epochs}. A row for each map, time from left to right: the "
        "strongest activation of all validation images, projected back to pixels. A sudden change "
        "means that another image has become the strongest. Lower layers settle within few "
        "epochs, upper ones need many: a reason to let training go on.",
    )
    common: dict[str, Any] = dict(
        limit=options.limit, batch_size=options.batch_size, workers=options.workers
    )
    tops = top_activations(
        report.model,
        report.dataset,
        layers,
        top=1,
        progress=report.stretch("maps to follow"),
        **common,
    )
    count = max(1, options.maps // 2)
    maps = [spread_maps(tops[layer].live(), count) for layer in layers]
    layers, maps = zip(*[(k, m) for k, m in zip(layers, maps, strict=True) if m], strict=True)
    for found in evolution(
        run,
        report.dataset,
        layers,
        maps,
        backward=options.backward,
        progress=report.stretch("snapshots"),
        **common,
    ):
        path = report.picture(found.picture(), "evolution", f"{found.layer}.png")
        page.heading(found.layer)
        page.picture(
            path,
            report.folder,
            f"Projections of maps {', '.join(map(str, found.maps))} of {found.layer}, a row each, "
            f"after epochs {epochs}",
            f"Maps {', '.join(map(str, found.maps))} from top to bottom, epochs {epochs} from left "
            "to right.",
        )
        report.table(
            ["map", "epoch", "activation", "index", "image"],
            (
                (m, e, found.values[i, j], found.indices[i, j], report.file_of(found.indices[i, j]))
                for i, m in enumerate(found.maps)
                for j, e in enumerate(found.epochs)
            ),
            "evolution",
            f"{found.layer}.csv",
        )
    report.write(page, "evolution")
