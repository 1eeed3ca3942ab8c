"""Boxes and average precision against slow independent computations and pycocotools."""

import math

import numpy as np
import pytest
import torch

from fastconv.detection import (
    Annotated,
    Detection,
    coco_average_precision,
    decode,
    encode,
    iou,
    merge,
    nms,
    precision_recall,
)
from fastconv.detection.average_precision import coco_evaluation
from fastconv.detection.boxes import as_boxes, clip


def random_boxes(count, seed=0, size=40):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size - 8, (count, 2))
    return as_boxes(np.concatenate([corner, corner + rng.integers(1, 20, (count, 2))], 1))


def pixels(box):
    left, top, right, bottom = (int(v) for v in box)
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


def test_iou_counts_pixels():
    first, second = random_boxes(12), random_boxes(9, 1)
    expected = [
        [len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in second] for a in first
    ]
    torch.testing.assert_close(iou(first, second), torch.tensor(expected))
    empty = as_boxes([[3, 3, 3, 9]])
    assert iou(empty, empty).item() == 0
    assert iou(as_boxes([]), second).shape == (0, 9)
    with pytest.raises(ValueError, match=r"must have shape \(N, 4\) \(got \(2, 3\)\)"):
        as_boxes([[1, 2, 3], [4, 5, 6]])


def test_nms_is_the_loop_of_the_definition():
    boxes = random_boxes(60)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    left = sorted(range(60), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        left = [i for i in rest if iou(boxes[best : best + 1], boxes[i : i + 1]) <= 0.3]
    assert nms(boxes, scores, 0.3).tolist() == kept
    assert nms(as_boxes([]), torch.zeros(0), 0.3).tolist() == []


def test_merging_weighs_by_score_and_adds_scores_up():
    boxes = as_boxes([[0, 0, 10, 10], [30, 30, 40, 40], [2, 0, 12, 10]])
    merged, scores = merge(boxes, torch.tensor([0.6, 0.7, 0.3]), 0.5)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7]))
    expected = [[2 * 0.3 / 0.9, 0, 10 + 2 * 0.3 / 0.9, 10], [30, 30, 40, 40]]
    torch.testing.assert_close(merged, torch.tensor(expected))
    assert merge(as_boxes([]), torch.zeros(0), 0.5)[0].shape == (0, 4)


def test_moves_bring_a_box_onto_its_target():
    boxes, targets = random_boxes(30), random_boxes(30, 1)
    torch.testing.assert_close(decode(boxes, encode(boxes, targets)), targets, atol=1e-4, rtol=1e-4)
    # The centre moves by a share of the size, x first; sizes by a factor.
    moved = decode(as_boxes([[0, 0, 10, 20]]), torch.tensor([[0.5, -0.25, math.log(2), 0.0]]))
    torch.testing.assert_close(moved, torch.tensor([[0.0, -5, 20, 15]]))
    assert torch.isfinite(decode(boxes[:1], torch.full((1, 4), 1e6))).all()
    assert clip(as_boxes([[-5, 3, 70, 99]]), (50, 60)).tolist() == [[0, 3, 60, 50]]


# -- average precision ----------------------------------------------------------------------------


def scene(seed, images=12):
    """Annotated images whose objects are apart, and detections of which some are near them."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for number in range(images):
        cells = rng.permutation(9)[: rng.integers(0, 5)]
        corners = np.stack([cells % 3, cells // 3], 1) * 30.0 + rng.integers(0, 8, (len(cells), 2))
        boxes = as_boxes(
            np.concatenate([corners, corners + rng.integers(10, 20, (len(cells), 2))], 1)
        )
        labels = [["cat", "dog"][rng.integers(2)] for _ in boxes]
        truth.append(Annotated(None, (90, 90), boxes, labels, torch.zeros(len(boxes)) > 0))
        for box, label in zip(boxes.tolist(), labels, strict=True):
            for _ in range(int(rng.integers(0, 3))):
                shaken = np.array(box) + rng.normal(0, 1.5, 4)
                score = float(rng.random()) + 0.3
                detections.append(Detection(number, label, score, tuple(shaken)))
        for box in random_boxes(int(rng.integers(0, 3)), [seed, number, 1], 60).tolist():
            label = ["cat", "dog"][rng.integers(2)]
            detections.append(Detection(number, label, float(rng.random()), tuple(box)))
    return detections, truth


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("method", "levels"), [("11", 11), ("all", 20001)])
def test_average_precision_is_pycocotools(seed, method, levels):
    pytest.importorskip("pycocotools")
    detections, truth = scene(seed)
    evaluation = coco_evaluation(detections, truth)
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.recThrs = np.linspace(0, 1, levels) - 1e-12  # a recall of 0.3 reaches .3
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    for k, label in enumerate(("cat", "dog")):
        expected = evaluation.eval["precision"][0, :, k, 0, -1].mean()
        curve = precision_recall(detections, truth, label)
        assert curve.objects > 0
        assert curve.average(method) == pytest.approx(expected, abs=1e-4)


def test_a_curve_by_hand():
    # Right, wrong (a second one on the same object), right; four objects, one of them difficult.
    boxes = as_boxes([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    difficult = torch.tensor([False, False, False, True])
    truth = [Annotated(None, (90, 90), boxes, ["cat"] * 4, difficult)]
    detections = [
        Detection(0, "cat", 0.9, (0, 0, 10, 10)),
        Detection(0, "cat", 0.8, (1, 0, 11, 10)),
        Detection(0, "cat", 0.85, (60, 0, 70, 10)),  # difficult: counts neither way
        Detection(0, "cat", 0.7, (20, 0, 30, 10)),
        Detection(0, "dog", 0.99, (40, 0, 50, 10)),
    ]
    curve = precision_recall(detections, truth, "cat")
    assert curve.objects == 3
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3])
    assert curve.average("all") == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    # Recalls 0 to .3 are reached at precision 1, .4 to .6 at 2/3, the rest never.
    assert curve.average("11") == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert math.isnan(precision_recall(detections, truth, "bird").average())
    with pytest.raises(ValueError, match="method must be 'all' or '11'"):
        curve.average("12")


def test_nothing_found_and_everything_found():
    pytest.importorskip("pycocotools")
    _, truth = scene(0)
    assert precision_recall([], truth, "cat").average() == 0
    assert coco_average_precision([], truth)["AP50"] == 0
    perfect = [
        Detection(number, label, 1.0, tuple(box.tolist()))
        for number, image in enumerate(truth)
        for box, label in zip(image.boxes, image.labels, strict=True)
    ]
    assert precision_recall(perfect, truth, "cat").average() == pytest.approx(1)
    assert precision_recall(perfect, truth, "cat").average("11") == pytest.approx(1)
    assert coco_average_precision(perfect, truth)["AP"] == pytest.approx(1)
