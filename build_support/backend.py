"""PEP 517 backend: setuptools, building against the torch that is already installed.

pip builds in an isolated environment. Asking for torch there would fetch a second, often
different and several gigabytes large torch. So torch is asked for only where the interpreter
has none; where it has one, its folder is appended to the isolated environment's path.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  re-exports every hook that is not wrapped below

_PLATLIB = Path(sysconfig.get_paths()["platlib"])


def _installed_torch():
    """The folder that holds a torch with stable ABI headers, or None."""
    headers = _PLATLIB / "torch" / "include" / "torch" / "csrc" / "stable"
    return _PLATLIB if (headers / "ops.h").is_file() else None


def _with_torch_on_path(hook):
    def run(*args, **kwargs):
        folder = _installed_torch()
        if folder is not None and str(folder) not in sys.path:
            sys.path.append(str(folder))
        return hook(*args, **kwargs)

    return run


def _without_old_files(hook):
    def run(*args, **kwargs):
        # setuptools leaves what it packs there, and packs what it finds there: files, too, that
        # the source tree has no more. The compiled objects stand elsewhere and are kept.
        for folder in Path("build").glob("lib*"):
            shutil.rmtree(folder)
        return hook(*args, **kwargs)

    return run


def get_requires_for_build_wheel(config_settings=None):
    return [] if _installed_torch() else ["torch>=2.10"]


get_requires_for_build_editable = get_requires_for_build_wheel
build_wheel = _with_torch_on_path(_without_old_files(build_meta.build_wheel))
build_editable = _with_torch_on_path(build_meta.build_editable)
