"""The networks of the papers, by name."""

from fastconv.models import alexnet, cifar, digits, zfnet  # noqa: F401  importing registers
from fastconv.models._classic import ClassicNet
from fastconv.models.registry import create_model, list_models, register_model

__all__ = ["ClassicNet", "create_model", "list_models", "register_model"]
