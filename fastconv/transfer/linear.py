"""Linear classifiers on features, over random splits: the tables of Zeiler & Fergus, section 5.2.

Both classifiers depend on the features through their inner products alone. Features of more
dimensions than there are training images are therefore replaced by as many coordinates as there
are, with the same inner products: nothing changes but the time it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSIFIERS = ("svm", "softmax")
# Of features whose mean squared length is 1.
_PENALTIES = {"svm": (0.1, 1.0, 10.0, 100.0), "softmax": (1.0, 10.0, 100.0)}
_FOLDS = 3


class Score(NamedTuple):
    """Accuracy of one classifier on one split.

    `accuracy` is the mean over the classes of the share of their test images that is right, in
    [0, 1]; `c` is the inverse penalty that cross-validation chose.
    """

    classifier: str
    per_class: int
    split: int
    accuracy: float
    c: float


def draw_splits(
    targets: Sequence[int] | np.ndarray,
    per_class: int,
    splits: int,
    *,
    test_per_class: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random halves of a data set: ``per_class`` training images of each class, the rest for tests.

    Args:
        targets: the class of every image.
        test_per_class: at most so many test images a class; None: all that remain.
        seed: the splits are the same for every caller who gives the same.

    Yields:
        Indices for training and for the test, rising.

    Raises:
        ValueError: a class has no image left for the test.
    """
    targets = np.asarray(targets)
    counts = np.bincount(targets)
    for name, value in (("per_class", per_class), ("splits", splits)):
        if value < 1:
            raise ValueError(f"draw_splits: {name} must be at least 1 (got {name}={value})")
    if per_class >= counts.min():
        raise ValueError(
            f"draw_splits: per_class must leave a test image in each class; class "
            f"{counts.argmin()} has {counts.min()} images (got per_class={per_class})"
        )
    for split in range(splits):
        rng = np.random.default_rng([seed, split])
        train, test = [], []
        for target in range(len(counts)):
            order = rng.permutation(np.flatnonzero(targets == target))
            train.append(order[:per_class])
            test.append(order[per_class:][:test_per_class])
        yield np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def linear_accuracy(
    features: np.ndarray,
    targets: Sequence[int] | np.ndarray,
    *,
    per_class: int,
    splits: int = 5,
    classifiers: Sequence[str] = CLASSIFIERS,
    test_per_class: int | None = None,
    seed: int = 0,
    progress: Callable[[Score], Any] | None = None,
) -> list[Score]:
    """How well linear classifiers tell the classes apart by the features.

    "svm" is a linear support vector machine, one class against another, "softmax" is multinomial
    logistic regression; both are scikit-learn's and penalise the squared weights. The penalty is
    chosen once for each classifier, by cross-validation in three folds of the first split's
    training images. The features are centred, and scaled to a mean squared length of 1.

    Args:
        features: (images, features).
        targets: the class of every image.
        per_class, splits, test_per_class, seed: as for `draw_splits`.
        classifiers: which.
        progress: called with each score.

    Returns:
        A score for each classifier and split.
    """
    for name in classifiers:
        if name not in CLASSIFIERS:
            raise ValueError(
                f"linear_accuracy: classifiers must be of {', '.join(CLASSIFIERS)} (got {name!r})"
            )
    targets = np.asarray(targets)
    products = _inner_products(features) if features.shape[1] > len(features) else None
    chosen: dict[str, float] = {}
    scores = []
    drawn = draw_splits(targets, per_class, splits, test_per_class=test_per_class, seed=seed)
    for split, (train, test) in enumerate(drawn):
        seen, unseen = (
            _coordinates(features, train, test)
            if products is None
            else _coordinates_of(products, train, test)
        )
        for name in classifiers:
            if name not in chosen:
                chosen[name] = _choose_penalty(name, seen, targets[train])
            model = _fit(name, seen, targets[train], chosen[name])
            guesses = model.predict(_input(name, seen, unseen))
            accuracy = class_accuracy(guesses, targets[test])
            score = Score(name, per_class, split, accuracy, chosen[name])
            scores.append(score)
            if progress is not None:
                progress(score)
    return scores


def class_accuracy(guesses: np.ndarray, targets: np.ndarray) -> float:
    """The mean over the classes of the share of their images that is right, in [0, 1]."""
    right = np.asarray(guesses) == np.asarray(targets)
    return float(np.mean([right[targets == c].mean() for c in np.unique(targets)]))


def _inner_products(features: np.ndarray, block: int = 4096) -> np.ndarray:
    """Inner products of the centred features, float64, added up over float32 blocks of columns."""
    total = np.zeros((len(features), len(features)))
    for first in range(0, features.shape[1], block):
        part = np.array(features[:, first : first + block], np.float32)
        part -= part.mean(0, dtype=np.float64).astype(np.float32)  # or rounding would eat the rest
        total += part @ part.T
    return total


def _coordinates(
    features: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features centred on the training images' mean and scaled to a mean squared length of 1."""
    seen = np.asarray(features[train], np.float64)
    mean = seen.mean(0)
    seen -= mean
    scale = np.sqrt((seen**2).sum(1).mean()) or 1.0
    return seen / scale, (np.asarray(features[test], np.float64) - mean) / scale


def _coordinates_of(
    products: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_coordinates`, from the features' inner products: as many coordinates as ``train``."""
    from scipy.linalg import solve_triangular

    inner, cross = products[np.ix_(train, train)], products[np.ix_(test, train)]
    mean = inner.mean(0)  # inner products with the training images' mean
    cross = cross - mean - cross.mean(1, keepdims=True) + mean.mean()
    inner = inner - mean - mean[:, None] + mean.mean()
    scale = np.trace(inner) / len(inner) or 1.0
    factor = _factor(inner / scale)
    return factor, solve_triangular(factor, cross.T / scale, lower=True).T


def _factor(inner: np.ndarray) -> np.ndarray:
    """L with L L' = ``inner``, whose mean diagonal is 1, and the least of identity that it takes.

    Centring takes one dimension away, and features may have fewer than there are images.
    """
    for ridge in (1e-6, 1e-5, 1e-4, 1e-3):
        try:
            return np.linalg.cholesky(inner + ridge * np.eye(len(inner)))
        except np.linalg.LinAlgError:
            continue
    raise ValueError("linear_accuracy: features must be finite numbers")


def _choose_penalty(name: str, coordinates: np.ndarray, targets: np.ndarray) -> float:
    """The inverse penalty that is the best by cross-validation; of equals the strongest penalty."""
    from sklearn.model_selection import StratifiedKFold

    if np.bincount(targets).max() < 2:
        return _PENALTIES[name][1]  # one image a class leaves nothing to validate on
    folds = min(_FOLDS, int(np.bincount(targets).max()))
    right = dict.fromkeys(_PENALTIES[name], 0.0)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    for train, test in splitter.split(coordinates, targets):
        seen, unseen = coordinates[train], coordinates[test]
        for c in right:
            model = _fit(name, seen, targets[train], c)
            right[c] += float((model.predict(_input(name, seen, unseen)) == targets[test]).sum())
    return max(right, key=right.__getitem__)


def _fit(name: str, coordinates: np.ndarray, targets: np.ndarray, c: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import SVC
    except ImportError:
        raise ImportError(
            'linear classifiers need scikit-learn: pip install "fastconv[transfer]"'
        ) from None
    if name == "svm":
        model = SVC(C=c, kernel="precomputed", cache_size=1000)
        return model.fit(coordinates @ coordinates.T, targets)
    # Of a mean squared length of 1 over thousands of dimensions, each gradient is small from the
    # start: scikit-learn's own tolerance may stop before the first step.
    model = LogisticRegression(C=c, tol=1e-5, max_iter=1000)
    return model.fit(coordinates.astype(np.float32), targets)  # half the time, the same answers


def _input(name: str, seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """What a fitted classifier takes for ``unseen``."""
    return unseen @ seen.T if name == "svm" else unseen.astype(np.float32)
