"""How good a detector is: average precision, curves, pictures with boxes, seconds a picture."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastconv import _figures, data
from fastconv._files import atomic_open, atomic_path
from fastconv.detection.annotations import Annotated
from fastconv.detection.average_precision import (
    Detection,
    PrecisionRecall,
    coco_average_precision,
    precision_recall,
)
from fastconv.detection.detector import Detector, Found


@dataclass(frozen=True)
class Evaluation:
    """What a detector found in annotated pictures.

    Attributes:
        detections: all of them; ``image`` is the picture's number.
        curves: precision and recall for each class, at an IoU of 0.5.
        seconds: a picture, mean.
    """

    pictures: Sequence[Annotated]
    detections: list[Detection]
    curves: dict[str, PrecisionRecall]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Figures: AP at IoU 0.5 ("AP", all points; "AP11"), mean over classes and for each.

        "COCO" is there if pycocotools is installed.
        """
        each = {
            label: {"AP": curve.average("all"), "AP11": curve.average("11")}
            for label, curve in self.curves.items()
        }
        result: dict[str, Any] = {
            "pictures": len(self.pictures),
            "objects": sum(curve.objects for curve in self.curves.values()),
            "seconds_per_picture": self.seconds,
            "AP": float(np.nanmean([row["AP"] for row in each.values()])),
            "AP11": float(np.nanmean([row["AP11"] for row in each.values()])),
            "classes": each,
        }
        with contextlib.suppress(ImportError):
            result["COCO"] = coco_average_precision(self.detections, self.pictures)
        return result

    def write(self, folder: Path, detector: Detector, shown: int = 12) -> None:
        """Write summary.json, detections.csv, precision-recall.png and pictures with boxes.

        Args:
            folder: made if absent.
            shown: so many pictures, the first ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_open(folder / "summary.json") as f:
            f.write(json.dumps(self.summary(), indent=2).encode())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["picture", "label", "score", "left", "top", "right", "bottom"])
        for d in self.detections:
            name = self.pictures[d.image].path.name
            writer.writerow([name, d.label, f"{d.score:.5g}", *(f"{v:.1f}" for v in d.box)])
        with atomic_open(folder / "detections.csv") as f:
            f.write(text.getvalue().encode())
        figure = precision_recall_figure(self.curves)
        _figures.save_figure(figure, folder / "precision-recall.png")
        for number, picture in enumerate(self.pictures[:shown]):
            found = [Found(d.label, d.score, d.box) for d in self.detections if d.image == number]
            image = draw(data.open_image(picture.path), found[:3], picture)
            path = folder / "pictures" / f"{picture.path.stem}.jpg"
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary:
                image.save(temporary, format="JPEG", quality=85)


def evaluate_detector(
    detector: Detector,
    pictures: Sequence[Annotated],
    *,
    progress: Callable[[int, int], Any] | None = None,
) -> Evaluation:
    """Run a detector over annotated pictures and compare."""
    detections = []
    began = time.perf_counter()
    for number, picture in enumerate(pictures):
        for found in detector.detect(picture.path):
            detections.append(Detection(number, found.label, found.score, found.box))
        if progress is not None:
            progress(number + 1, len(pictures))
    seconds = (time.perf_counter() - began) / max(1, len(pictures))
    curves = {c: precision_recall(detections, pictures, c) for c in detector.classes}
    return Evaluation(pictures, detections, curves, seconds)


def hold_out(
    pictures: Sequence[Annotated], share: float, seed: int = 0
) -> tuple[list[Annotated], list[Annotated]]:
    """Split pictures at random: for training, and ``share`` of them, rounded, for a test."""
    if not 0 < share < 1:
        raise ValueError(f"hold_out: share must be between 0 and 1 (got share={share})")
    count = round(share * len(pictures))
    if not 0 < count < len(pictures):
        raise ValueError(
            f"hold_out: share must leave pictures on both sides (got {share} of {len(pictures)})"
        )
    order = np.random.default_rng(seed).permutation(len(pictures))
    test = set(order[:count].tolist())
    parts: tuple[list, list] = ([], [])
    for number, picture in enumerate(pictures):
        parts[number in test].append(picture)
    return parts


def precision_recall_figure(curves: dict[str, PrecisionRecall]) -> Any:
    """Precision over recall, a line a class, its AP in the legend."""
    figure = _figures.new_figure(5.4, 4.2)
    axes = _figures.plain(figure.subplots(), x="recall", y="precision")
    for index, (label, curve) in enumerate(curves.items()):
        axes.plot(
            np.concatenate([[0], curve.recall]),
            np.concatenate([curve.precision[:1], curve.precision]),
            label=f"{label}, AP {100 * curve.average('all'):.1f} %",
            **_figures.style_of(index),
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw(
    picture: Image.Image, found: Sequence[Found], truth: Annotated | None = None
) -> Image.Image:
    """The picture with what was found, in orange with its score, and what is there, in white."""
    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    width = max(2, round(min(picture.size) / 150))
    for box in [] if truth is None else truth.boxes.tolist():
        pen.rectangle(box, outline="white", width=width)
    for thing in reversed(found):
        left, top, right, bottom = thing.box
        if right - left > 2 * width and bottom - top > 2 * width:
            pen.rectangle(thing.box, outline="#D55E00", width=width)
        text = f"{thing.label} {thing.score:.2f}"
        size = max(10, round(min(picture.size) / 25))
        ends = pen.textbbox((left + width, top + width), text, font_size=size)
        pen.rectangle(ends, fill="#D55E00")
        pen.text((left + width, top + width), text, fill="white", font_size=size)
    return picture
