"""Custom C++/CUDA kernels for the layers of the classic convnets, as PyTorch ops and layers."""

from fastconv._library import info
from fastconv._version import __version__
from fastconv.ops import local_contrast_norm, max_pool2d, max_pool2d_with_switches, max_unpool2d

__all__ = [
    "__version__",
    "info",
    "local_contrast_norm",
    "max_pool2d",
    "max_pool2d_with_switches",
    "max_unpool2d",
]
