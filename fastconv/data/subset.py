"""Some of the images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Subset:
    """The images of ``dataset`` at ``indices``, with its classes, transform and kinds of keys."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.classes: list[str] = dataset.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        index, *seed = key if isinstance(key, tuple) else (key,)
        index = int(self.indices[index])
        return self.dataset[(index, *seed) if seed else index]

    def __repr__(self) -> str:
        return f"Subset({self.dataset!r}: {len(self)} images)"

    @property
    def targets(self) -> list[int]:
        """The class index of every image."""
        return np.asarray(self.dataset.targets)[self.indices].tolist()
