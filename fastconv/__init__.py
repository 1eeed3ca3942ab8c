"""Custom C++/CUDA kernels for the layers of the classic convnets, as PyTorch ops and layers."""

from fastconv._version import __version__

__all__ = ["__version__"]
