"""The models by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from fnmatch import fnmatch

from torch import nn

_MODELS: dict[str, Callable[..., nn.Module]] = {}


def register_model(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Decorator: makes a function that builds a model known under the function's name.

    The function takes ``num_classes``, ``in_chans`` and further keyword arguments of its own. The
    model that it returns has the attributes ``input_size`` (C, H, W) and ``num_classes``.

    Raises:
        ValueError: the name is taken.
    """
    name = function.__name__
    if name in _MODELS:
        raise ValueError(f"register_model: the name must be new (got {name!r})")
    _MODELS[name] = function
    return function


def create_model(
    name: str, num_classes: int | None = None, in_chans: int | None = None, **kwargs
) -> nn.Module:
    """Build a model by name.

    Args:
        name: one of :func:`list_models`.
        num_classes: outputs of the last layer; ``None``: the model's own (1000 for ImageNet's).
        in_chans: channels of the input; ``None``: the model's own (3 for ImageNet's).
        kwargs: the model's own arguments, see its function.

    Raises:
        ValueError: unknown name, with the closest ones; a size below 1; an argument that the model
            does not have.
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=3) or sorted(_MODELS)
        raise ValueError(f"create_model: unknown model {name!r}; closest: {', '.join(close)}")
    sizes = {"num_classes": num_classes, "in_chans": in_chans}
    for key, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"create_model: {key} must be at least 1 (got {key}={value})")
    given = {key: value for key, value in sizes.items() if value is not None}
    try:
        return _MODELS[name](**given, **kwargs)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        if unknown is None:
            raise
        raise ValueError(f"create_model: {name} has no option {unknown[1]}") from error


def list_models(filter: str = "") -> list[str]:
    """Names of the models, sorted; ``filter`` is a shell pattern such as ``"zf*"``."""
    return sorted(name for name in _MODELS if not filter or fnmatch(name, filter))
