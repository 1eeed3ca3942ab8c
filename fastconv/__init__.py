"""Custom C++/CUDA kernels for the layers of the classic convnets, as PyTorch ops and layers."""

from fastconv import nn, ops, visualize
from fastconv._library import empty_cache, info
from fastconv._version import __version__
from fastconv.convert import convert, freeze, fuse
from fastconv.models import create_model, list_models, register_model
from fastconv.ops import *  # noqa: F403  every op, as fastconv.<op>
from fastconv.run import Run
from fastconv.visualize import gradcheck_layer

__all__ = [
    "Run",
    "__version__",
    "convert",
    "create_model",
    "empty_cache",
    "freeze",
    "fuse",
    "gradcheck_layer",
    "info",
    "list_models",
    "nn",
    "register_model",
    "visualize",
    *ops.__all__,
]
