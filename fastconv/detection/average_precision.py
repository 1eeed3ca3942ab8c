"""Average precision: of what a detector found, ranked by score, how much is right.

Everingham et al., "The Pascal visual object classes challenge", IJCV 2010, section 4.2.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from fastconv.detection.annotations import Annotated
from fastconv.detection.boxes import iou

METHODS = ("all", "11")


class Detection(NamedTuple):
    """Something found: in the image of that number, with a score, in (left, top, right, bottom)."""

    image: int
    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class PrecisionRecall:
    """How precision and recall go as the score falls, for one class.

    Attributes:
        scores: (N,) of the detections that count, falling.
        precision, recall: (N,) of the detections down to each.
        objects: how many there were to find.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    objects: int

    def average(self, method: str = "all") -> float:
        """Average precision in [0, 1]; NaN where there was nothing to find.

        Args:
            method: "all": the area under the curve, made to fall monotonically (VOC 2010 and
                later). "11": the mean over the recalls 0, .1, ..., 1 (VOC 2007).
        """
        if method not in METHODS:
            raise ValueError(f"average: method must be 'all' or '11' (got method={method!r})")
        if self.objects == 0:
            return float("nan")
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        if method == "all":
            return float((np.diff(recall) * precision[1:]).sum())
        # Of a recall that is reached exactly, rounding must not take the point away.
        levels = np.linspace(0, 1, 11) - 1e-12
        reached = np.searchsorted(recall[1:], levels)
        return float(precision[1:][reached].mean())


def precision_recall(
    detections: Sequence[Detection], truth: Sequence[Annotated], label: str, threshold: float = 0.5
) -> PrecisionRecall:
    """Match detections of a class with what is there, the best score first.

    A detection is right if the object that it overlaps most, by at least ``threshold`` (IoU), has
    not been found yet; a second one is wrong. One on a difficult object counts neither way.

    Args:
        detections: ``image`` is an index into ``truth``.
        truth: the annotated images.
        label: the class.
    """
    boxes, difficult = [], []
    for image in truth:
        wanted = torch.tensor([name == label for name in image.labels], dtype=torch.bool)
        boxes.append(image.boxes[wanted])
        difficult.append(image.difficult[wanted])
    found = [torch.zeros(len(b), dtype=torch.bool) for b in boxes]
    ranked = sorted((d for d in detections if d.label == label), key=lambda d: -d.score)
    right, scores = [], []
    for detection in ranked:
        objects = boxes[detection.image]
        best, is_hit = 0, False
        if len(objects):
            overlap = iou(torch.tensor([detection.box]), objects)[0]
            best = int(overlap.argmax())
            is_hit = bool(overlap[best] >= threshold)
        if is_hit and difficult[detection.image][best]:
            continue
        right.append(is_hit and not found[detection.image][best])
        scores.append(detection.score)
        if is_hit:
            found[detection.image][best] = True
    objects = int(sum((~d).sum() for d in difficult))
    hits = np.cumsum(np.array(right, dtype=np.float64))
    return PrecisionRecall(
        scores=np.array(scores),
        precision=hits / np.arange(1, len(hits) + 1),
        recall=hits / max(objects, 1),
        objects=objects,
    )


def coco_average_precision(
    detections: Sequence[Detection], truth: Sequence[Annotated]
) -> dict[str, float]:
    """COCO's figures by pycocotools: AP over IoU .5 to .95, AP50 and AP75, mean over the classes.

    Difficult objects are COCO's crowds: what lies inside them counts neither way.

    Raises:
        ImportError: pycocotools is not installed.
    """
    evaluation = coco_evaluation(detections, truth)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class

    def mean(part: np.ndarray) -> float:
        part = part[part > -1]
        return float(part.mean()) if part.size else float("nan")

    return {"AP": mean(precision), "AP50": mean(precision[:1]), "AP75": mean(precision[5:6])}


def coco_evaluation(detections: Sequence[Detection], truth: Sequence[Annotated]) -> Any:
    """pycocotools' ``COCOeval`` of these, to be run with parameters of one's own."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError(
            'COCO\'s figures need pycocotools: pip install "fastconv[detection]"'
        ) from None
    labels = sorted({name for image in truth for name in image.labels})
    number = {name: k for k, name in enumerate(labels, 1)}
    content: dict[str, list] = defaultdict(list)
    content["categories"] = [{"id": k, "name": name} for name, k in number.items()]
    for index, image in enumerate(truth):
        content["images"].append({"id": index, "height": image.size[0], "width": image.size[1]})
        for box, name, difficult in zip(image.boxes, image.labels, image.difficult, strict=True):
            entry = {"id": len(content["annotations"]) + 1, "image_id": index}
            entry |= {"category_id": number[name], "iscrowd": int(difficult)}
            content["annotations"].append({**entry, **_coco_box(box.tolist())})
    found = [
        {"image_id": d.image, "category_id": number[d.label], "score": d.score, **_coco_box(d.box)}
        for d in detections
        if d.label in number
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        reference = COCO()
        reference.dataset = dict(content)
        reference.createIndex()
        results = reference.loadRes(found) if found else COCO()
        if not found:
            results.dataset = {**content, "annotations": []}
            results.createIndex()
    return COCOeval(reference, results, "bbox")


def _coco_box(box: Sequence[float]) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return {"bbox": [left, top, width, height], "area": width * height}
