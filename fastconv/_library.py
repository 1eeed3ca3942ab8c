"""Loads the compiled libraries, and says what was built and what is running.

``_C`` (schemas, CPU kernels, pybind11 module) is required. ``_cuda`` (CUDA kernels) is loaded where
the running torch is a CUDA build.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
import warnings
from pathlib import Path

import torch

from fastconv._version import __version__

_FOLDER = Path(__file__).resolve().parent
_CUDA_LIBRARY = _FOLDER / "_cuda.so"
_OLDEST_TORCH = (2, 10)
_MEND = "pip install --force-reinstall --no-deps ."


def _running() -> str:
    return (
        f"Python {platform.python_version()} ({sysconfig.get_config_var('SOABI')}), "
        f"torch {torch.__version__}, {platform.machine()} {sys.platform}"
    )


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _refuse(reason: str, mend: str, cause: Exception | None = None) -> None:
    built = ", ".join(sorted(p.name for p in _FOLDER.glob("_C*.so"))) or "nothing"
    raise ImportError(
        f"fastconv {__version__} cannot start: {reason}\n"
        f"  built:   {built} in {_FOLDER}\n"
        f"  running: {_running()}\n"
        f"  to mend: {mend}"
    ) from cause


def _load_c():
    if _torch_version() < _OLDEST_TORCH:
        _refuse("it needs torch 2.10 or later", 'pip install --upgrade "torch>=2.10"')
    try:
        from fastconv import _C  # type: ignore[attr-defined]  # compiled
    except ImportError as error:
        present = list(_FOLDER.glob("_C*.so"))
        if not present:
            reason = "its compiled library is missing"
        elif not any(sysconfig.get_config_var("EXT_SUFFIX") in p.name for p in present):
            reason = "its compiled library was built for another Python"
        else:
            reason = f"its compiled library does not load ({error})"
        _refuse(reason, f"{_MEND}   (in fastconv's source folder)", error)
    built = _C.build_info()["version"]
    if built != __version__:
        _refuse(
            f"its compiled library is of version {built}",
            f"{_MEND}   (in fastconv's source folder)",
        )
    return _C


def _load_cuda() -> str:
    """Load the CUDA kernels; returns what became of it, for ``fastconv.info()``."""
    if torch.version.cuda is None:
        return "not loaded: this torch is a CPU build"
    if not _CUDA_LIBRARY.is_file():
        if torch.cuda.is_available():
            warnings.warn(
                "fastconv was built without its CUDA kernels: its ops run on the CPU only. "
                f"Install the CUDA toolkit's nvcc, then: FASTCONV_CUDA=1 {_MEND}",
                stacklevel=3,
            )
        return "not built: nvcc was not found when fastconv was built"
    try:
        torch.ops.load_library(str(_CUDA_LIBRARY))
    except OSError as error:
        warnings.warn(
            f"fastconv's CUDA kernels ({_CUDA_LIBRARY.name}) do not load under {_running()}: "
            f"{error}. To mend: FASTCONV_CUDA=1 {_MEND}",
            stacklevel=3,
        )
        return f"not loaded: {error}"
    return "loaded"


_C = _load_c()
_cuda_state = _load_cuda()


def empty_cache() -> int:
    """Give back to the system the memory that large results of CPU ops have left behind.

    Results from 1 MB on leave their memory to those to come, for fresh memory costs more than many
    an op computes. Together with the results in use that is at most twice what they took at once
    lately (during the last one to two thousand large results). ``FASTCONV_KEEP_MEMORY=0``,
    read once, turns it off; macOS, and torch before 2.11, do without. On GPUs torch's own
    ``torch.cuda.empty_cache`` does the same.

    Returns the number of bytes given back.
    """
    return _C.release_kept_memory()


def info() -> dict[str, object]:
    """What was built, what runs, and for which processors.

    Returns a dict of plain values: ``fastconv``, ``torch``, ``python`` (running versions),
    ``built_with`` (torch, Python, compiler and nvcc of the build), ``cpu_library`` and
    ``cuda_library`` (paths or why not), ``cuda_architectures``, ``gpus``, ``cpu_capability``
    (``baseline``, ``avx2`` or ``avx512``) and ``threads``.
    """
    built = _C.build_info()
    architectures = [a for a in built["cuda_architectures"].split(";") if a]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "fastconv": __version__,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "built_with": {k: built[k] for k in ("torch", "python", "compiler", "nvcc")},
        "cpu_library": _C.__file__,
        "cpu_capability": _C.cpu_capability(),
        "threads": torch.get_num_threads(),
        "cuda_library": str(_CUDA_LIBRARY) if _cuda_state == "loaded" else _cuda_state,
        "cuda_architectures": architectures,
        "gpus": [
            "{} (sm_{}{})".format(
                torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)
            )
            for i in devices
        ],
    }
