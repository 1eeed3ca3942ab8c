"""What is built is described in build_support/extensions.py; all else stands in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "build_support"))

from extensions import BuildLibraries, extensions

setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLibraries})
