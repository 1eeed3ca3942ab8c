"""The handwritten digits that scikit-learn carries: real data without a download."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from fastconv.data.folder import DatasetError
from fastconv.data.loading import sample_key
from fastconv.data.transforms import ToTensor, apply_transform

_LEVELS = 16  # The pixels count the inked dots of 4x4 blocks: 0 to 16.
_TEST_STRIDE = 5


class Digits:
    """1797 handwritten digits of 8x8 pixels, in two fixed splits with equal shares of each class.

    Of every class, in scikit-learn's order, each fifth sample is for ``"val"`` (364 in all) and the
    rest for ``"train"`` (1433). The samples are what the transform makes of a Pillow image of mode
    F with ink 1 and ground 0; by default float32 tensors (1, 8, 8) in [0, 1]. Keys are as in
    `ImageFolder`. Source: E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI
    Machine Learning Repository, 1998 (its test set).

    Args:
        split: ``"train"`` or ``"val"``.
        transform: from a Pillow image to the sample. Default: `ToTensor`.
        classes: the class names of a run; they must be the digits "0" to "9" in order.
    """

    def __init__(
        self,
        split: str,
        transform: Callable | None = None,
        *,
        classes: Sequence[str] | None = None,
    ):
        if split not in ("train", "val"):
            raise ValueError(f"split must be train or val (got {split!r})")
        self.classes = [str(digit) for digit in range(10)]
        if classes is not None and list(classes) != self.classes:
            raise DatasetError(
                f"the digits' classes are {', '.join(self.classes)}, the run's are "
                f"{', '.join(list(classes)[:12])}"
            )
        self.transform = ToTensor() if transform is None else transform
        images, targets = _load()
        chosen = _is_test(targets) == (split == "val")
        self._images = (images[chosen] / _LEVELS).astype(np.float32)
        self._targets = targets[chosen]
        self._split = split

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, key: int | tuple[int, int]):
        index, generator = sample_key(key, len(self))
        image = Image.fromarray(self._images[index])
        return apply_transform(self.transform, image, generator), int(self._targets[index])

    def __repr__(self) -> str:
        return f"Digits({self._split!r}: {len(self)} images, 10 classes)"

    @property
    def targets(self) -> list[int]:
        """The digit of every image."""
        return self._targets.tolist()


def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: "
            'pip install "fastconv[train]", or give a data folder'
        ) from error
    data = load_digits()
    return data.images, data.target.astype(np.int64)


def _is_test(targets: np.ndarray) -> np.ndarray:
    test = np.zeros(len(targets), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(targets == digit)[::_TEST_STRIDE]] = True
    return test
