"""The pages about a trained model and single images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch

from fastconv.run import Run
from fastconv.visualize.deconvnet import Deconvnet
from fastconv.visualize.feature_maps import feature_maps, maps_picture
from fastconv.visualize.filters import (
    FilterMeasures,
    filter_measures,
    filters_picture,
    first_layer_filters,
)
from fastconv.visualize.invariance import (
    KINDS,
    change,
    default_values,
    invariance,
    invariance_figure,
)
from fastconv.visualize.occlusion import occlusion
from fastconv.visualize.pictures import enlarge, grid, pixel_picture, signed_picture
from fastconv.visualize.report import Report, title_of
from fastconv.visualize.top_patches import TopActivations, patches, spread_maps, top_activations

_OCCLUDED = 3  # images; each costs some hundred passes
_JUDGED = 5  # pixels; in smaller filters noise and structure cannot be told apart


def filters_page(report: Report) -> None:
    """First-layer filters; of two runs side by side where there is another to compare with."""
    page = report.page(
        "First-layer filters",
        "The weights of the first convolution as pictures; mid-grey is 0. Good filters are edges "
        "and colours, each different. Filters with hardly any weight are dead; filters that pass "
        "frequencies above what their stride can carry let the next layer see aliases.",
    )
    runs = [report.run] + ([report.other] if report.other else [])
    measures = [_one_runs_filters(report, page, run, str(i)) for i, run in enumerate(runs)]
    page.heading("Measures")
    header = ["measure", *(title_of(run) for run in runs)]
    rows: list[tuple[str, list[Any]]] = [
        ("filters", [len(m.rms) for m in measures]),
        ("size, pixels", [f"{m.kernel_size[0]}x{m.kernel_size[1]}" for m in measures]),
        ("stride, pixels", [f"{m.stride[0]}x{m.stride[1]}" for m in measures]),
        (
            f"dead: RMS below {measures[0].threshold:g} of the median",
            [f"{100 * m.dead_share:.1f} %" for m in measures],
        ),
        ("RMS, largest / median", [f"{m.rms.max() / np.median(m.rms):.1f}" for m in measures]),
        ("power beyond what the stride carries", [f"{100 * m.beyond_all:.1f} %" for m in measures]),
        ("the same, median filter", [f"{100 * np.median(m.beyond):.1f} %" for m in measures]),
        ("the same, white noise", [f"{100 * m.beyond_noise:.1f} %" for m in measures]),
        ("correlation of neighbours", [f"{np.median(m.smoothness):.2f}" for m in measures]),
    ]
    page.table(header, [[name, *values] for name, values in rows])
    for run, m in zip(runs, measures, strict=True):
        page.note(f"{title_of(run)}: {_filter_notes(m)}")
    report.write(page, "filters")


def _one_runs_filters(report: Report, page, run: Run, prefix: str) -> FilterMeasures:
    filters, found = first_layer_filters(run.model).cpu(), filter_measures(run.model)
    page.heading(f"{title_of(run)}: {found.layer}")
    count = f"{len(filters)} filters of {found.kernel_size[0]}x{found.kernel_size[1]} pixels"
    gallery = []
    for scale, text in (
        ("each", "each with its own contrast"),
        ("all", "all with one contrast: weak filters are grey"),
    ):
        file = f"filters-{prefix}-{scale}.png"
        path = report.picture(filters_picture(filters, scale=scale), "filters", file)
        gallery.append((path, f"{count}, {text}", text))
    page.gallery(gallery, report.folder)
    page.picture(
        report.figure(found.figure(), "filters", f"measures-{prefix}.png"),
        report.folder,
        "Left: mean power spectrum of the filters with a box around the frequencies that the "
        "stride carries. Right: RMS of the filters from the largest to the smallest.",
        "Power outside the box aliases. Filters below the dashed line count as dead.",
    )
    report.table(
        ["filter", "rms", "dead", "beyond_nyquist", "smoothness"],
        zip(
            range(len(filters)),
            found.rms,
            found.dead.astype(int),
            found.beyond,
            found.smoothness,
            strict=True,
        ),
        "filters",
        f"filters-{prefix}.csv",
    )
    return found


def _filter_notes(m: FilterMeasures) -> str:
    dead = (
        f"{100 * m.dead_share:.0f} % of the filters are dead"
        if m.dead.any()
        else "no filter is dead"
    )
    aliases = (
        "much of what the filters pass aliases at this stride; Zeiler & Fergus took smaller "
        "filters and a stride of 2 against it"
        if m.beyond_all > 0.25
        else "little of what the filters pass aliases at this stride"
    )
    strong = (
        "; few filters dominate (the largest RMS is more than 5 times the median), which "
        "--max-filter-rms prevents"
        if m.rms.max() > 5 * np.median(m.rms)
        else ""
    )
    if min(m.kernel_size) >= _JUDGED and m.noisy_share > 0.5:
        aliases = (
            f"but {100 * m.noisy_share:.0f} % have no structure that stands out of noise, the "
            "tutorial's sign of bad or unfinished training; initial weights that are large beside "
            "what is learned stay visible for long, and what aliases is then their noise"
        )
    return f"{dead}, {aliases}{strong}."


def maps_page(report: Report) -> None:
    """All feature maps of one image."""
    (example,) = report.examples(1)
    page = report.page(
        "Feature maps",
        "What each layer makes of one image: every map of the layer, from black for 0 to white for "
        "the map's largest activation; before rectification mid-grey is 0. Sparse maps that differ "
        "from each other are good signs; black ones are silent for this image.",
    )
    shown = report.picture(enlarge(example.picture, 224), "maps", "image.png")
    name = report.class_name(example.target)
    page.picture(shown, report.folder, f"The image: {name}", f"{example.name}: {name}")
    found = feature_maps(report.model, example.input, report.options.layers)
    for number, (layer, maps) in enumerate(found.items()):
        size = "x".join(str(n) for n in maps.shape[1:])
        what = f"{len(maps)} maps of {size}" if maps.dim() == 3 else f"{len(maps)} units"
        page.heading(f"{layer}: {what}")
        silent = int((maps.flatten(1) <= 0).all(1).sum()) if maps.dim() == 3 else 0
        path = report.picture(maps_picture(maps), "maps", f"{number:02}-{layer}.png")
        text = f"{silent} maps are silent." if silent else ""
        page.picture(path, report.folder, f"Outputs of {layer} for the image, {what}", text)
    arrays = {k.replace(".", "_"): np.asarray(v) for k, v in found.items()}
    report.arrays("maps", "maps.npz", **arrays)
    report.write(page, "maps")


def patches_page(report: Report) -> None:
    """Top images of each map, and what in them the map answers to."""
    options = report.options
    layers = report.conv_layers()
    page = report.page(
        "Top patches",
        f"For some maps of each layer the {options.top} images of the validation data that excite "
        "the map most. Left: the strongest activation projected back to pixels "
        f"({options.backward}); right: the patch of the image that the unit sees. What the patches "
        "of a map share is what it answers to; what the projections leave out does not matter to "
        "it.",
    )
    tops = top_activations(
        report.model,
        report.dataset,
        layers,
        top=options.top,
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        progress=report.stretch("top patches"),
    )
    shown = report.stretch("projections")
    for done, layer in enumerate(layers, 1):
        _one_layers_patches(report, page, layer, tops[layer])
        shown(done, len(layers))
    report.write(page, "patches")


def _one_layers_patches(report: Report, page, layer: str, top: TopActivations) -> None:
    live = top.live()
    dead = len(top.values) - len(live)
    page.heading(f"{layer}: {len(top.values)} maps")
    if dead:
        page.text(f"{dead} of them no image excites.")
    targets = report.dataset.targets
    deconvnet = Deconvnet(report.model, report.options.backward)
    gallery = []
    for map in spread_maps(live, report.options.maps):
        keep = top.values[map] > 0
        indices = top.indices[map][keep]
        found = patches(
            deconvnet,
            layer,
            map,
            top.positions[map][keep],
            report.inputs(indices),
            report.pixels(indices),
        )
        path = report.picture(found.picture(), "patches", layer, f"map-{map:04}.png")
        names = Counter(report.class_name(targets[i]) for i in indices)
        text = f"map {map}: " + ", ".join(f"{name} ({n})" for name, n in names.most_common(3))
        alt = (
            f"Map {map} of {layer}: projections of its {len(indices)} strongest activations on the "
            f"left, the patches of the images on the right; classes: {text.partition(': ')[2]}"
        )
        gallery.append((path, alt, text))
    if gallery:
        page.gallery(gallery, report.folder)
    arrays = top._asdict()
    report.arrays("patches", f"{layer}.npz", **arrays)
    report.table(
        ["map", "rank", "activation", "index", "image", "class", "row", "column"],
        (
            (m, k, top.values[m, k], i, report.file_of(i), report.run.classes[targets[i]], y, x)
            for m in range(len(top.values))
            for k, (i, (y, x)) in enumerate(
                zip(top.indices[m].tolist(), top.positions[m].tolist(), strict=True)
            )
        ),
        "patches",
        f"{layer}.csv",
    )


def occlusion_page(report: Report) -> None:
    """A grey square over the image: what the network needs to see."""
    page = report.page(
        "Occlusion",
        "A grey square slides over the image. Where the probability of the true class falls, the "
        "square covers what the network recognises it by. The total activation of the most excited "
        "map of the last convolution falls where the square covers what the map answers to, which "
        "its projection shows.",
    )
    deconvnet = Deconvnet(report.model, report.options.backward)
    for number, example in enumerate(report.examples(min(_OCCLUDED, report.options.examples))):
        found = occlusion(
            report.model,
            example.input,
            example.target,
            fill=report.grey,
            batch_size=report.options.batch_size,
            progress=report.stretch(f"occlusion {number + 1}"),
        )
        name = report.class_name(example.target)
        projection = deconvnet(example.input, found.layer, found.map).pixels[0]
        figure = found.figure(example.picture, report.class_names, signed_picture(projection))
        path = report.figure(figure, "occlusion", f"{number}.png")
        low = np.unravel_index(found.probability.argmin(), found.probability.shape)
        top, left = int(found.tops[low[0]]), int(found.lefts[low[1]])
        lost = 100 * np.mean(found.best != example.target)
        page.heading(f"{name}: {example.name}")
        page.picture(
            path,
            report.folder,
            f"{name}: the image with the square, total activation of map {found.map} of "
            f"{found.layer}, its projection, probability of {name}, and most probable class, for "
            "each place of the square",
            f"p({name}) is {found.whole_probability:.2f} for the whole image"
            + ("" if example.is_true else " (the most probable class; the true one is not known)")
            + f" and falls to {found.probability[low]:.2f} with the square at row {top}, column "
            f"{left}. At {lost:.0f} % of its places another class is the most probable.",
        )
        report.arrays(
            "occlusion",
            f"{number}.npz",
            probability=found.probability,
            activation=found.activation,
            best=found.best,
            tops=found.tops,
            lefts=found.lefts,
            size=np.asarray(found.size),
            per_pixel=found.per_pixel(example.input.shape[1:]),
        )
    report.write(page, "occlusion")


def invariance_page(report: Report) -> None:
    """Curves of features and probability while the image moves, grows and turns."""
    examples = report.examples(report.options.examples)
    names = [f"{report.class_name(e.target)}" for e in examples]
    images = torch.stack([e.input for e in examples])
    targets = [e.target for e in examples]
    page = report.page(
        "Invariance",
        "Images are moved down, enlarged and turned. How far do the features of the first layer "
        "and of the last before the class scores move from those of the original, and what becomes "
        "of the probability of the true class? In a good network the last layer moves less, and "
        "nearly in step with translation and scale; it is not invariant to rotation, except by "
        "symmetry of the object.",
    )
    results, samples = [], []
    for kind in KINDS:
        update = report.stretch(kind)
        found = invariance(report.model, images, targets, kind, progress=update)
        results.append(found)
        samples.append(_changed_picture(examples, kind, 0.5 if report.is_centred else 0.0))
        lines = [*found.distances.items(), ("probability", found.probability)]
        report.table(
            ["image", found.kind, *(f"distance_{layer}" for layer in found.distances), "p_true"],
            (
                (e.name, float(v), *(line[i, j] for _, line in lines))
                for i, e in enumerate(examples)
                for j, v in enumerate(found.values)
            ),
            "invariance",
            f"{kind}.csv",
        )
    path = report.figure(
        invariance_figure(results, _distinct(names), samples), "invariance", "invariance.png"
    )
    page.picture(
        path,
        report.folder,
        "Three rows, for translation, scale and rotation: changed images, curves of the distance "
        "of first-layer and last-layer features, and of the probability of the true class, a line "
        "for each image",
        "Distances are Euclidean, between the features of the changed and of the original image.",
    )
    for found in results:
        page.note(_invariance_note(found))
    report.write(page, "invariance")


def _invariance_note(found) -> str:
    start = {"translation": 0, "scale": 1, "rotation": 0}[found.kind]
    at = int(np.abs(found.values - start).argmin())
    kept = found.probability.min(1) > 0.5 * found.probability[:, at]
    return (
        f"{found.kind}: over the whole range {int(kept.sum())} of {len(kept)} images keep more "
        "than half of their probability."
    )


def _changed_picture(examples, kind: str, fill: float) -> np.ndarray:
    """For each image, itself and changed by the ends and the middle of the range."""
    rows = []
    for e in examples:
        pixels = torch.from_numpy(e.picture).permute(2, 0, 1)[None].float() / 255
        values = default_values(kind, e.input.shape[1])
        chosen = [values[0], values[len(values) // 4], values[len(values) // 2], values[-1]]
        rows += [pixel_picture(change(pixels, kind, float(v), fill)[0]) for v in chosen]
    return grid([enlarge(r, 48) for r in rows], 4, gap=2)


def _distinct(names: list[str]) -> list[str]:
    """Names that occur twice get a number."""
    count = Counter(names)
    seen: Counter = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} {seen[name]}" if count[name] > 1 else name)
    return result
