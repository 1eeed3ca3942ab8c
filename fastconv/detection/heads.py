"""What is learned on top of the features of candidates: linear SVMs and box regressions.

Girshick et al., "R-CNN", arXiv:1311.2524, section 2.3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastconv.detection.boxes import encode

_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of features whose mean squared length is 1


@dataclass(frozen=True)
class Head:
    """Scores of classes and moves of boxes, linear in the features (d) of candidates.

    Attributes:
        weight, bias: (K, d) and (K,), of the SVMs.
        box_weight, box_bias: (K, 4, d) and (K, 4), of what `boxes.decode` takes.
    """

    weight: Tensor
    bias: Tensor
    box_weight: Tensor
    box_bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """(N, K); an SVM's margin is between -1 and 1."""
        return features.float() @ self.weight.T + self.bias

    def moves(self, features: Tensor, k: int) -> Tensor:
        """(N, 4), for class k."""
        return features.float() @ self.box_weight[k].T + self.box_bias[k]


@dataclass(frozen=True)
class Samples:
    """The candidates of one training picture.

    Attributes:
        features: (N, d), float16.
        boxes: (N, 4).
        overlaps: (N, K): the largest IoU with an object of each class, 0 without any.
        nearest: (N, K, 4): that object's box.
        difficult: (N,) bool: those on an object that does not count; they are not learned from.
    """

    features: Tensor
    boxes: Tensor
    overlaps: Tensor
    nearest: Tensor
    difficult: Tensor


@dataclass
class Training:
    """How a head is trained.

    Attributes:
        positive: least IoU of a positive with an object. R-CNN takes the objects alone (1); with
            few pictures, candidates close to them help.
        negative: a negative overlaps no object of its class by more.
        regress: least IoU of a candidate that the box regression learns from.
        c: inverse penalty of the SVMs, for features of a mean squared length of 1.
        rounds: of training and adding the negatives that are still on the wrong side of the margin.
        most: negatives in an SVM's training; the hardest stay.
        seed: of the first negatives.
    """

    positive: float = 0.7
    negative: float = 0.3
    regress: float = 0.6
    c: float = 1.0
    rounds: int = 4
    most: int = 5000
    seed: int = 0


def train_head(
    samples: Sequence[Samples],
    classes: Sequence[str],
    options: Training,
    progress: Callable[[int, int], Any] | None = None,
) -> Head:
    """One SVM against the rest and one box regression for each class.

    Raises:
        ValueError: a class without a positive candidate.
        ImportError: scikit-learn is not installed.
    """
    mean, scale = _scaling(samples)
    weights, biases, box_weights, box_biases = [], [], [], []
    for k, name in enumerate(classes):
        weight, bias = _train_svm(samples, k, name, mean, scale, options)
        weights.append(weight)
        biases.append(bias)
        box_weight, box_bias = _train_boxes(samples, k, mean, scale, options)
        box_weights.append(box_weight)
        box_biases.append(box_bias)
        if progress is not None:
            progress(k + 1, len(classes))
    return Head(
        torch.stack(weights), torch.stack(biases), torch.stack(box_weights), torch.stack(box_biases)
    )


def _scaling(samples: Sequence[Samples]) -> tuple[Tensor, float]:
    """The features' mean, and the root of their mean squared length around it."""
    count = sum(len(s.features) for s in samples)
    mean = torch.stack([s.features.double().sum(0) for s in samples]).sum(0) / count
    squared = sum(((s.features.double() - mean) ** 2).sum() for s in samples) / count
    return mean.float(), max(float(squared) ** 0.5, 1e-12)


def _rows(samples: Sequence[Samples], chosen: list[Tensor], mean: Tensor, scale: float) -> Tensor:
    """Scaled features of the chosen candidates of every picture."""
    parts = [s.features[c].float() for s, c in zip(samples, chosen, strict=True)]
    return (torch.cat(parts) - mean) / scale


def _train_svm(
    samples: Sequence[Samples], k: int, name: str, mean: Tensor, scale: float, options: Training
) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.svm import LinearSVC
    except ImportError:
        raise ImportError(
            'detectors learn with scikit-learn: pip install "fastconv[detection]"'
        ) from None
    positives = [(s.overlaps[:, k] >= options.positive) & ~s.difficult for s in samples]
    negatives = [(s.overlaps[:, k] < options.negative) & ~s.difficult for s in samples]
    right = _rows(samples, positives, mean, scale).numpy()
    if not len(right):
        raise ValueError(
            f"train_head: class {name} has no candidate that overlaps an object by "
            f"{options.positive}"
        )
    rng = np.random.default_rng(options.seed)
    first = min(options.most, max(2000, 4 * len(right)))
    share = first / max(1, sum(int(n.sum()) for n in negatives))
    chosen = [n & torch.from_numpy(rng.random(len(n)) < share) for n in negatives]
    svm = LinearSVC(C=options.c, class_weight={1: 2.0}, tol=1e-3, max_iter=3000)
    weight, bias = torch.zeros_like(mean), torch.zeros(())
    for round in range(options.rounds):
        wrong = _rows(samples, chosen, mean, scale).numpy()
        labels = np.repeat([1, -1], [len(right), len(wrong)])
        svm.fit(np.concatenate([right, wrong]), labels)
        weight = torch.from_numpy(svm.coef_[0]).float() / scale
        bias = torch.tensor(float(svm.intercept_[0])) - weight @ mean
        if round == options.rounds - 1:
            break
        margins = [
            torch.where(n, s.features.float() @ weight + bias, -torch.inf)
            for s, n in zip(samples, negatives, strict=True)
        ]
        hard = [m > -1 for m in margins]
        news = sum(int((h & ~c).sum()) for h, c in zip(hard, chosen, strict=True))
        if news == 0:
            break
        # The easy ones among those that were learned from are forgotten when there is no room.
        ranked = [
            torch.where(c | h, m, -torch.inf) for c, h, m in zip(chosen, hard, margins, strict=True)
        ]
        everything = torch.cat(ranked)
        limit = -torch.inf
        if int((everything > -torch.inf).sum()) > options.most:
            limit = everything.topk(options.most).values[-1]
        chosen = [(m >= limit) & (m > -torch.inf) for m in ranked]
    return weight, bias


def _train_boxes(
    samples: Sequence[Samples], k: int, mean: Tensor, scale: float, options: Training
) -> tuple[Tensor, Tensor]:
    """Ridge regression from features to moves, its penalty by leave-one-out cross-validation."""
    from sklearn.linear_model import RidgeCV

    near = [(s.overlaps[:, k] >= options.regress) & ~s.difficult for s in samples]
    boxes = torch.cat([s.boxes[n] for s, n in zip(samples, near, strict=True)])
    targets = torch.cat([s.nearest[n, k] for s, n in zip(samples, near, strict=True)])
    if len(boxes) < 2:
        return mean.new_zeros(4, len(mean)), mean.new_zeros(4)
    rows = _rows(samples, near, mean, scale).numpy()
    ridge = RidgeCV(_ALPHAS).fit(rows, encode(boxes, targets).numpy())
    weight = torch.from_numpy(ridge.coef_).float() / scale
    return weight, torch.from_numpy(ridge.intercept_).float() - weight @ mean
