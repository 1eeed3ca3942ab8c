"""The whole study of a run's features on other data: scores, table and plots in a folder."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import _figures, data
from fastconv._files import atomic_open
from fastconv.run import Run
from fastconv.transfer.features import extract, open_images, parse_layers, pixels
from fastconv.transfer.fine_tuning import fine_tune
from fastconv.transfer.linear import CLASSIFIERS, Score, draw_splits, linear_accuracy

FIELDS = ("features", "layer", "classifier", "per_class", "split", "accuracy", "c")


@dataclass
class Options:
    """What is compared; each name is a flag of ``fastconv transfer``."""

    layers: str = "1-7"
    per_class: list[int] = field(default_factory=lambda: [30])
    test_per_class: int | None = None
    splits: int = 5
    classifiers: list[str] = field(default_factory=lambda: list(CLASSIFIERS))
    controls: list[str] = field(default_factory=lambda: ["untrained", "pixels"])
    fine_tune: list[str] = field(default_factory=list)
    epochs: int = 10
    lr: float = 0.001
    seed: int = 0
    batch_size: int = 64
    workers: int = 0


class Study:
    """Measures what a run's features are worth on other data.

    Args:
        run: an open run.
        source: the other data, see `open_images`.
        folder: of ``scores.csv``, ``table.md``, ``layers.png`` and, for several numbers of
            training images, ``per-class.png``; written anew after each layer.
        cache: where features are kept.
        options: what to compare.
        progress: has ``start``, ``update``, ``say`` and ``finish``; None: silence.
    """

    def __init__(
        self,
        run: Run,
        source: str | None,
        folder: Path,
        cache: Path,
        options: Options,
        progress: Any = None,
    ):
        self.run, self.source, self.options, self.progress = run, source, options, progress
        self.folder, self.cache = Path(folder), Path(cache)
        self.images = open_images(source, run.transform)
        self.layers = parse_layers(run.model, options.layers)
        self.rows: list[dict[str, Any]] = []
        for per_class in options.per_class:  # a wrong number is better known at once
            next(draw_splits(self.images.targets, per_class, 1))

    def run_all(self) -> list[dict[str, Any]]:
        """Everything the options ask for; the rows of scores.csv."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if "pixels" in self.options.controls:
            shown = open_images(self.source, self._view())
            self._score("pixels", "", pixels(shown))
        self._score_network("trained", self.run.model)
        if "untrained" in self.options.controls:
            self._score_network("untrained", self._untrained())
        for mode in self.options.fine_tune:
            self._fine_tune(mode)
        return self.rows

    def _view(self) -> Callable:
        """Pixels in [0, 1] as the run crops them."""
        steps = getattr(self.run.transform, "transforms", [self.run.transform])
        colour = (data.transforms.SubtractMean, data.transforms.Normalize)
        return data.transforms.Compose([step for step in steps if not isinstance(step, colour)])

    def _untrained(self) -> Any:
        import torch

        torch.manual_seed(self.options.seed)
        model = Run.open(self.run.path, weights=None).model
        return model.to(next(self.run.model.parameters()).device)

    def _score_network(self, name: str, model: Any) -> None:
        arrays = extract(
            model,
            self.images,
            list(self.layers.values()),
            cache=self.cache,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            progress=self._stretch(f"features, {name}"),
        )
        for label, layer in self.layers.items():
            self._score(name, label, arrays[layer])

    def _score(self, name: str, label: str, features: np.ndarray) -> None:
        options = self.options
        for per_class in options.per_class:
            total = options.splits * len(options.classifiers)
            advance = self._stretch(f"{name} {label}, {per_class} a class")
            done = 0

            def count(score: Score, advance=advance, total=total) -> None:
                nonlocal done
                done += 1
                advance(done, total)

            found = linear_accuracy(
                features,
                self.images.targets,
                per_class=per_class,
                splits=options.splits,
                classifiers=options.classifiers,
                test_per_class=options.test_per_class,
                seed=options.seed,
                progress=count,
            )
            self.rows += [{"features": name, "layer": label, **s._asdict()} for s in found]
        self._write()

    def _fine_tune(self, mode: str) -> None:
        options = self.options
        config = self.run.config["transforms"]["train"]
        transform = data.transforms.from_config(config, self.run.statistics)
        for per_class in options.per_class:
            ((train, test),) = draw_splits(
                self.images.targets,
                per_class,
                1,
                test_per_class=options.test_per_class,
                seed=options.seed,
            )
            _, accuracy = fine_tune(
                self.run.model,
                data.Subset(open_images(self.source, transform), train),
                data.Subset(self.images, test),
                mode=mode,
                epochs=options.epochs,
                batch_size=options.batch_size,
                lr=options.lr,
                seed=options.seed,
                workers=options.workers,
                progress=self._stretch(f"training {mode}, {per_class} a class"),
            )
            score = Score("network", per_class, 0, accuracy, float("nan"))
            self.rows.append({"features": f"tuned: {mode}", "layer": "", **score._asdict()})
            self._write()

    def _stretch(self, label: str) -> Callable[[int, int], None]:
        """A function (done, total) that shows how far something has come."""
        started = False

        def update(done: int, total: int) -> None:
            nonlocal started
            if self.progress is None:
                return
            if not started:
                self.progress.start(label, total)
                started = True
            self.progress.update(done)
            if done == total:
                self.progress.finish()

        return update

    # -- what is written ------------------------------------------------------------------------

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**r, "accuracy": f"{r['accuracy']:.4f}"} for r in self.rows)
        with atomic_open(self.folder / "scores.csv") as f:
            f.write(text.getvalue().encode())
        with atomic_open(self.folder / "table.md") as f:
            f.write(table(self.rows).encode())
        most = max(row["per_class"] for row in self.rows)
        _figures.save_figure(
            layers_figure([r for r in self.rows if r["per_class"] == most]),
            self.folder / "layers.png",
        )
        if len(self.options.per_class) > 1:
            _figures.save_figure(per_class_figure(self.rows), self.folder / "per-class.png")


def mean_scores(rows: list[dict[str, Any]]) -> dict[tuple, tuple[float, float]]:
    """Mean and standard deviation over the splits, by (features, layer, classifier, per_class)."""
    groups = defaultdict(list)
    for row in rows:
        key = (row["features"], row["layer"], row["classifier"], row["per_class"])
        groups[key].append(float(row["accuracy"]))
    return {
        key: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0)
        for key, v in groups.items()
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracy in per cent, mean ± deviation over the splits, as a Markdown table."""
    means = mean_scores(rows)
    columns = list(dict.fromkeys((key[2], key[3]) for key in means))
    lines = [
        "| features | " + " | ".join(f"{name}, {n} a class" for name, n in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for features, layer in dict.fromkeys(key[:2] for key in means):
        cells = []
        for column in columns:
            found = means.get((features, layer, *column))
            text = f"{100 * found[0]:.1f} ± {100 * found[1]:.1f}" if found else ""
            cells.append(text.removesuffix(" ± 0.0") if column[0] == "network" else text)
        label = f"{features}, layer {layer}" if layer else features
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def layers_figure(rows: list[dict[str, Any]]) -> Any:
    """Accuracy over the layers, a line for each kind of features and classifier."""
    means = mean_scores(rows)
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["layer"]))
    figure = _figures.new_figure(7.2, 4.2)
    axes = _figures.plain(figure.subplots(), x="layer", y="mean accuracy of the classes, %")
    kinds = list(dict.fromkeys((r["features"], r["classifier"]) for r in rows))
    for index, (features, classifier) in enumerate(kinds):
        found = {k[1]: v for k, v in means.items() if (k[0], k[2]) == (features, classifier)}
        style, label = _figures.style_of(index), f"{features}, {classifier}"
        if "" in found:  # of no layer: a level
            axes.axhline(100 * found[""][0], label=label, linewidth=1.2, **style)
            continue
        places = [i for i, layer in enumerate(layers) if layer in found]
        values = 100 * np.array([found[layers[i]] for i in places])
        axes.errorbar(
            places, values[:, 0], values[:, 1], marker="o", markersize=4, label=label, **style
        )
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def per_class_figure(rows: list[dict[str, Any]]) -> Any:
    """Accuracy over training images a class, for the best layer of each kind of features."""
    means = mean_scores(rows)
    figure = _figures.new_figure(7.2, 4.2)
    axes = _figures.plain(
        figure.subplots(), x="training images a class", y="mean accuracy of the classes, %"
    )
    kinds = list(dict.fromkeys((r["features"], r["classifier"]) for r in rows))
    for index, (features, classifier) in enumerate(kinds):
        group = {k: v for k, v in means.items() if (k[0], k[2]) == (features, classifier)}
        most = max(key[3] for key in group)  # a study under way has not got to the last number
        last = {k[1]: v[0] for k, v in group.items() if k[3] == most}
        layer = max(last, key=last.__getitem__)
        points = sorted((k[3], *v) for k, v in group.items() if k[1] == layer)
        counts, values, deviations = np.array(points).T
        label = f"{features}{f' {layer}' if layer else ''}, {classifier}"
        axes.errorbar(
            counts,
            100 * values,
            100 * deviations,
            marker="o",
            markersize=4,
            label=label,
            **_figures.style_of(index),
        )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
