"""Custom C++/CUDA kernels for the layers of the classic convnets, as PyTorch ops and layers."""

from fastconv import nn
from fastconv._library import info
from fastconv._version import __version__
from fastconv.convert import convert
from fastconv.models import create_model, list_models, register_model
from fastconv.ops import (
    conv2d,
    local_response_norm,
    max_pool2d,
    max_pool2d_with_switches,
    max_unpool2d,
)
from fastconv.run import Run

__all__ = [
    "Run",
    "__version__",
    "conv2d",
    "convert",
    "create_model",
    "info",
    "list_models",
    "local_response_norm",
    "max_pool2d",
    "max_pool2d_with_switches",
    "max_unpool2d",
    "nn",
    "register_model",
]
