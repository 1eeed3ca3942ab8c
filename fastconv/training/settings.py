"""Every choice of a training run in one list; flags, YAML keys and run.json all come from it.

This module imports neither torch nor anything else that is slow, so that ``--help`` is quick.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEDULES = ("constant", "step", "multistep", "plateau", "cosine", "linear", "exponential")


class SettingsError(ValueError):
    """A setting that is unknown, of the wrong kind or out of range; the message names it."""


def _setting(group: str, kind: str, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {"group": group, "kind": kind, "help": help, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Settings:
    """What a run was told to do. Field names are the long flags with ``_`` for ``-``.

    Raises:
        SettingsError: a value is of the wrong kind or out of range.
    """

    data: str | None = _setting(
        "data", "str", None, "image folder with train/ and val/; none: scikit-learn's digits"
    )
    recipe: str | None = _setting(
        "data",
        "str",
        None,
        "preprocessing: classic (2012), plain (no random steps) or digits; chosen by the data",
    )
    image_size: int | None = _setting(
        "data", "int", None, "side of the network's input; the model's own"
    )
    mean: str = _setting(
        "data", "str", "image", "what is subtracted from each picture", ("image", "color")
    )
    units: str | None = _setting(
        "data",
        "str",
        None,
        "of the network's input: pixels (0 to 255) or std (a spread of 1); the model's own",
        ("pixels", "std"),
    )
    crops: str = _setting(
        "data",
        "str",
        "random",
        "classic, in training: a random place, or one of ten (corners and centre, mirrored or not)",
        ("random", "ten"),
    )
    pca_noise: float = _setting(
        "data", "float", 0.1, "classic, in training: deviation of the colour noise; 0: none"
    )
    preprocess: str = _setting(
        "data",
        "str",
        "none",
        "after the mean: zca whitening (small images) or local contrast normalisation",
        ("none", "zca", "contrast"),
    )
    strict: bool = _setting("data", "bool", False, "stop at an unreadable image, do not skip it")
    workers: int | None = _setting(
        "data",
        "int",
        None,
        "processes that read images; 0 for digits, else up to 2 (GPU: 16)",
    )
    device_transforms: bool | None = _setting(
        "data",
        "bool",
        None,
        "the device, not the workers, mirrors, subtracts the mean and scales; on GPUs it does",
    )

    model: str | None = _setting("model", "str", None, "model to train; alexnet, or digits_convnet")
    model_kwargs: dict[str, Any] = _setting(
        "model", "dict", {}, "further arguments of the model, as name=value"
    )

    epochs: int = _setting("optimisation", "int", 90, "passes over the training images")
    batch_size: int = _setting("optimisation", "int", 128, "images in a step, in all processes")
    lr: float = _setting("optimisation", "float", 0.01, "learning rate of the weights")
    bias_lr: float = _setting(
        "optimisation", "float", 1.0, "learning rate of biases, as a multiple of --lr"
    )
    momentum: float = _setting("optimisation", "float", 0.9, "momentum of SGD")
    nesterov: bool = _setting("optimisation", "bool", False, "Nesterov's form of momentum")
    weight_decay: float = _setting("optimisation", "float", 5e-4, "L2 penalty of the weights")
    l1: float = _setting("optimisation", "float", 0.0, "L1 penalty of the weights")
    bias_decay: bool = _setting(
        "optimisation", "bool", False, "penalise the biases too, as the weights are"
    )
    grad_clip: float | None = _setting(
        "optimisation", "float", None, "largest norm of the whole gradient"
    )
    max_filter_rms: float | None = _setting(
        "optimisation", "float", None, "rescale convolution filters whose RMS is above this"
    )
    label_smoothing: float = _setting("optimisation", "float", 0.0, "share given to all classes")

    sched: str = _setting("schedule", "str", "cosine", "course of the learning rate", SCHEDULES)
    warmup_epochs: float = _setting("schedule", "float", 0.0, "epochs of linear rise at the start")
    decay_epochs: int | None = _setting(
        "schedule", "int", None, "step: epochs between decays; a fifth of the run"
    )
    decay_milestones: list[int] | None = _setting(
        "schedule", "ints", None, "multistep: epochs after which to decay, e.g. 30,60,80"
    )
    decay_rate: float | None = _setting(
        "schedule",
        "float",
        None,
        "factor of a decay; 0.1, for step and exponential such that the run ends at lr/250",
    )
    patience_epochs: int = _setting(
        "schedule", "int", 5, "plateau: epochs without a better top-1 before a decay"
    )
    min_lr: float = _setting("schedule", "float", 0.0, "cosine, plateau, linear: lowest rate")

    device: str = _setting("machine", "str", "auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = _setting("machine", "int", None, "CPU threads of torch")
    amp: bool = _setting("machine", "bool", False, "mixed precision through torch.autocast")
    amp_dtype: str = _setting(
        "machine", "str", "bfloat16", "precision of --amp", ("bfloat16", "float16")
    )
    grad_accum_steps: int = _setting(
        "machine", "int", 1, "parts in which a step's batch is computed, to save memory"
    )
    compile: bool = _setting("machine", "bool", False, "compile the network with torch.compile")
    channels_last: bool = _setting("machine", "bool", False, "NHWC memory, the fast layout")

    seed: int = _setting("run", "int", 0, "all randomness follows from it")
    output: str | None = _setting("run", "str", None, "folder of the run; runs/<model>-<n>")
    save_every: str = _setting(
        "run", "str", "5m", "how often to save within an epoch: 500 (steps), 90s or 5m"
    )
    snapshots: list[int] | None = _setting(
        "run", "ints", None, "epochs after which to keep the weights, e.g. 1,2,5,10"
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            setattr(self, f.name, coerce(f.name, getattr(self, f.name)))
        for name in (
            "epochs",
            "batch_size",
            "grad_accum_steps",
            "threads",
            "image_size",
            "decay_epochs",
        ):
            self._require(name, lambda v: v >= 1, "at least 1")
        for name in ("lr", "bias_lr", "grad_clip", "max_filter_rms"):
            self._require(name, lambda v: 0 < v < math.inf, "a number above 0")
        for name in (
            "workers",
            "weight_decay",
            "l1",
            "warmup_epochs",
            "patience_epochs",
            "min_lr",
            "pca_noise",
        ):
            self._require(name, lambda v: 0 <= v < math.inf, "a number of at least 0")
        for name in ("momentum", "label_smoothing"):
            self._require(name, lambda v: 0 <= v < 1, "from 0 up to but not 1")
        self._require("decay_rate", lambda v: 0 < v < 1, "between 0 and 1")
        self._require("seed", lambda v: 0 <= v < 2**63, "from 0 to 2**63 - 1")
        if self.nesterov and self.momentum == 0:
            raise SettingsError("nesterov: needs a momentum above 0 (got momentum=0)")
        if self.sched == "multistep" and not self.decay_milestones:
            raise SettingsError("decay_milestones: sched multistep needs them, e.g. 30,60,80")
        parse_interval(self.save_every)

    def _require(self, name: str, rule, words: str) -> None:
        value = getattr(self, name)
        if value is not None and not rule(value):
            raise SettingsError(f"{name}: must be {words} (got {value})")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; ``Settings(**settings.to_dict()) == settings``."""
        return dataclasses.asdict(self)


# What the papers (and the 2012 code) used; a flag or the config file overrides each.
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "alexnet": dict(lr=0.01, bias_lr=2.0, weight_decay=5e-4, epochs=90, sched="step"),
    "caffenet": dict(lr=0.01, bias_lr=2.0, weight_decay=5e-4, epochs=90, sched="step"),
    "zfnet": dict(lr=0.01, weight_decay=5e-4, epochs=70, sched="step", max_filter_rms=0.1),
    "zfnet_wide": dict(lr=0.01, weight_decay=5e-4, epochs=70, sched="step", max_filter_rms=0.1),
    # The paper gave its softmax a rate of 1.
    "cifar_stochastic_pooling": dict(
        lr=0.01, weight_decay=1e-3, epochs=280, sched="linear", min_lr=1e-4
    ),
    # So small that on a busy machine two threads wait for each other longer than they work.
    "digits_convnet": dict(
        lr=0.05, batch_size=32, epochs=20, weight_decay=5e-4, nesterov=True, threads=1
    ),
}


def resolve(given: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the flags given, over a config file's, over the model's defaults.

    ``model_kwargs`` are merged: a flag replaces those that it names and leaves the others.

    Raises:
        SettingsError: an unknown name (with the nearest known ones) or a bad value.
    """
    known = [f.name for f in dataclasses.fields(Settings)]
    chosen: dict[str, Any] = {}
    for mapping in (config or {}, given):
        for key, value in mapping.items():
            name = str(key).replace("-", "_")
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3)
                hint = f"; did you mean {' or '.join(close)}?" if close else ""
                raise SettingsError(f"unknown setting {key!r}{hint}")
            value = coerce(name, value)
            if isinstance(value, dict):
                value = {**chosen.get(name, {}), **value}
            chosen[name] = value
    if chosen.get("model") is None:
        chosen["model"] = "digits_convnet" if chosen.get("data") is None else "alexnet"
    return Settings(**{**MODEL_DEFAULTS.get(chosen["model"], {}), **chosen})


def coerce(name: str, value: Any) -> Any:
    """`value` (text from a flag, or what YAML or JSON made of it) as the setting's own type."""
    meta = Settings.__dataclass_fields__[name].metadata
    if value is None:
        if Settings.__dataclass_fields__[name].default is None:
            return None
        raise SettingsError(f"{name}: needs a value")
    try:
        value = _CONVERSIONS[meta["kind"]](value)
    except (ValueError, TypeError, SyntaxError):
        expected = _WORDS[meta["kind"]]
        raise SettingsError(f"{name}: expected {expected} (got {value!r})") from None
    if meta["choices"] and value not in meta["choices"]:
        options = ", ".join(meta["choices"])
        raise SettingsError(f"{name}: must be one of {options} (got {value!r})")
    return value


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    # YAML reads 1e-2 as text, so text counts as a number here.
    if isinstance(value, bool) or math.isnan(number := float(value)):
        raise ValueError
    return number


def _to_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _to_str(value: Any) -> str:
    if isinstance(value, (bool, dict, list)):
        raise ValueError
    return str(value)


def _to_ints(value: Any) -> list[int]:
    parts = value.split(",") if isinstance(value, str) else value
    numbers = [_to_int(part) for part in parts]
    if numbers != sorted(set(numbers)) or numbers[:1] < [1]:
        raise ValueError
    return numbers


def _to_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    result = {}
    for item in [value] if isinstance(value, str) else value:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError
        try:
            result[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            result[key] = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return result


_CONVERSIONS = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "str": _to_str,
    "ints": _to_ints,
    "dict": _to_dict,
}
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "ints": "rising whole numbers, e.g. 30,60,80",
    "dict": "name=value",
}


def parse_interval(text: str) -> tuple[int | None, float | None]:
    """``"500"`` -> (500 steps, None); ``"90s"``, ``"5m"``, ``"1h"`` -> (None, seconds)."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
            if 0 < seconds < math.inf:
                return None, seconds
        elif int(text) > 0:
            return int(text), None
    except ValueError:
        pass
    raise SettingsError(f"save_every: must be steps (500) or a time (90s, 5m) (got {text!r})")
