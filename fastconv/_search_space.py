"""What a search goes through: a range or choices for each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.training.settings import Settings, SettingsError, coerce, resolve


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `log`: even steps are even factors; `whole`: integers.

    `points`: so many of them, evenly spread, make a grid.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    points: int = 3

    def grid(self) -> list[float]:
        """The points of a grid."""
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        values = np.linspace(*ends, self.points)
        values = np.exp(values) if self.log else values
        if self.whole:
            return sorted({round(float(v)) for v in values})
        return [float(f"{v:.6g}") for v in values]


def read_space(path: str | Path) -> dict[str, Range | list[Any]]:
    """The search space in a YAML file: a range or a list of choices for each setting.

    ::

        lr: {low: 0.001, high: 0.3, log: true}
        batch_size: [16, 32, 64]
        model_kwargs.dropout: {low: 0.0, high: 0.7, points: 4}

    Raises:
        SettingsError: an unknown setting, or something that is neither; the message names it.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError('a space needs PyYAML: pip install "fastconv[search]"') from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise SettingsError(f"{path}: must hold lines of setting: range or choices")
    return {name.replace("-", "_"): _dimension(name, spec) for name, spec in content.items()}


def _dimension(name: str, spec: Any) -> Range | list[Any]:
    base, dot, _ = name.replace("-", "_").partition(".")
    if base not in Settings.__dataclass_fields__:
        resolve({base: None})  # says what is near
    if isinstance(spec, list) and spec:
        if not dot:
            spec = [coerce(base, value) for value in spec]
        if not all(isinstance(v, (str, int, float, bool, type(None))) for v in spec):
            raise SettingsError(f"{name}: choices must be plain values (got {spec})")
        return spec
    if not isinstance(spec, dict) or not {"low", "high"} <= spec.keys():
        raise SettingsError(f"{name}: must be choices [a, b] or {{low: , high: }} (got {spec})")
    if unknown := spec.keys() - {"low", "high", "log", "points"}:
        raise SettingsError(f"{name}: a range has low, high, log, points (got {min(unknown)!r})")
    try:
        low, high, points = float(spec["low"]), float(spec["high"]), int(spec.get("points", 3))
    except (TypeError, ValueError):
        raise SettingsError(f"{name}: low, high and points must be numbers (got {spec})") from None
    log = spec.get("log", False) is True
    if not low < high or (log and low <= 0) or points < 2:
        raise SettingsError(
            f"{name}: must have low < high, low above 0 where log, and 2 points (got {spec})"
        )
    # A setting's own kind decides; of a model's argument, how the ends are written.
    kind = Settings.__dataclass_fields__[base].metadata["kind"]
    whole = kind == "int" or (bool(dot) and all(isinstance(spec[k], int) for k in ("low", "high")))
    return Range(low, high, log, whole, points)


def grid_size(space: Mapping[str, Range | list[Any]]) -> int:
    """Combinations of a grid over the space."""
    return math.prod(len(d if isinstance(d, list) else d.grid()) for d in space.values())
