#!/usr/bin/env bash
# Builds fastconv once and runs its op tests under several torch releases.
#
#   tests/abi_matrix.sh [PYTHON] [TORCH_REQUIREMENT...]
#
# Default: python3, torch==2.11.0, torch==2.13.0 and the newest release. An argument that is a
# folder is taken as a virtual environment that holds the torch to try. The first requirement's
# environment builds. Several gigabytes are downloaded; the table at the end is Markdown.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
shift || true
requirements=("$@")
[ ${#requirements[@]} -gt 0 ] || requirements=("torch==2.13.0" "torch==2.11.0" "torch")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rows=()

environment_for() { # requirement -> folder of a virtual environment that has it
  if [ -d "$1" ]; then
    echo "$1"
  else
    local folder="$work/env-${1//[^a-z0-9.]/-}"
    [ -d "$folder" ] || "$python" -m venv "$folder"
    "$folder/bin/pip" install --quiet "$1" >&2
    echo "$folder"
  fi
}

builder=$(environment_for "${requirements[0]}")
"$builder/bin/pip" wheel --quiet --no-deps --wheel-dir "$work/wheel" . >&2
wheel=$(ls "$work"/wheel/*.whl)
built=$("$builder/bin/python" -c 'import torch; print(torch.__version__)')

for requirement in "${requirements[@]}"; do
  folder=$(environment_for "$requirement")
  "$folder/bin/pip" install --quiet --force-reinstall --no-deps "$wheel" >&2
  "$folder/bin/pip" install --quiet numpy pillow safetensors pytest pytest-timeout hypothesis >&2
  version=$("$folder/bin/python" -c 'import torch; print(torch.__version__)')
  # -P: the installed package, not the source folder, is what must be imported.
  state=$("$folder/bin/python" -P -c 'import fastconv; print(fastconv.info()["cuda_library"])')
  result=$("$folder/bin/python" -P -m pytest tests/ops tests/packaging/test_import.py 2>&1 | tail -1) || true
  case $state in */_cuda.so) state=loaded ;; esac
  rows+=("| $version | $state | ${result//=/} |")
done

echo
echo "Built once with torch $built, $("$builder/bin/python" --version)."
echo
echo "| torch | CUDA library | op tests |"
echo "|---|---|---|"
printf '%s\n' "${rows[@]}"
