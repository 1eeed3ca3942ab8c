#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command that needs no network:
#
#   bench/gpu.sh [OUTPUT_FOLDER]      default: bench/results/<GPU>-<date>
#
# Builds with what is installed (torch, pybind11, ninja, setuptools, nvcc), runs the test suite with
# its CUDA tests, compute-sanitizer over small tests, and the benchmarks. Leaves report.json,
# report.md and the logs in the folder, and ends with a verdict. Each step has its own time limit, or what
# is left of 9 minutes if that is less.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
name=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no-gpu")' | tr -cs 'A-Za-z0-9\n' '-')
out=${1:-bench/results/${name%-}-$(date +%F)}
mkdir -p "$out"
failed=()

deadline=530 # seconds after the start; the rest is for the verdict
step() {     # name, seconds, command...
  local title=$1 limit=$2 left=$((deadline - SECONDS))
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  if [ "$limit" -le 0 ]; then
    echo "== $title: no time left"
    failed+=("$title (no time left)")
    return 124
  fi
  printf '\n== %s\n' "$title"
  local begin=$SECONDS
  timeout "$limit" "$@" >"$out/$title.log" 2>&1
  local status=$?
  tail -n 12 "$out/$title.log"
  printf '== %s: status %d, %d s\n' "$title" $status $((SECONDS - begin))
  [ $status -eq 0 ] || failed+=("$title (status $status)")
  return $status
}

if [ "$name" = no-gpu ]; then
  echo "no GPU: torch.cuda.is_available() is false. The CUDA tests will be skipped."
  device=(--device cpu --batch 1 --seconds 0.05)
  workers=()
else
  capability=$("$python" -c 'import torch; a, b = torch.cuda.get_device_capability(); print(f"{a}.{b}" + "a" * (a >= 9))')
  export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}
  device=(--device cuda --dtype bfloat16 --batch 128 512 --compiled --seconds 0.2)
  workers=(-n 8) # pytest-xdist, where it is installed: the processes share the GPU
fi
"$python" -c 'import xdist' 2>/dev/null || workers=()

export FASTCONV_CUDA=1
step build 120 "$python" setup.py build_ext --inplace || { echo "VERDICT: not built"; exit 1; }
step info 30 "$python" -m fastconv info
step resources 20 "$python" build_support/cuda_resources.py
step cuda-tests 120 "$python" -m pytest tests/ops/test_cuda.py -p no:cacheprovider "${workers[@]}"
if [ "$name" != no-gpu ] && command -v compute-sanitizer >/dev/null; then
  few=(-m pytest tests/ops/test_cuda.py -p no:cacheprovider -k "equals_cpu and float16 and channels_last")
  step memcheck 60 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" "${few[@]}"
  step racecheck 60 compute-sanitizer --tool racecheck --error-exitcode 9 "$python" "${few[@]}"
  step initcheck 60 compute-sanitizer --tool initcheck --error-exitcode 9 "$python" "${few[@]}"
fi
step report 150 "$python" bench/report.py "${device[@]}" --output "$out"
if [ "$name" != no-gpu ]; then
  step models 150 "$python" bench/models.py --device cuda --dtype bfloat16 --batch 128 512 \
    --inference 16 512 --compiled --rounds 20 --output "$out"
fi
times=()
[ "$name" = no-gpu ] || times=(--report "$out/report.json")
step kernels 20 "$python" bench/kernels.py build --batch 128 512 "${times[@]}" --output "$out/kernels.md"
# The rest of the suite last: it is the same on every machine.
step tests 240 "$python" -m pytest tests --ignore=tests/simt --ignore=tests/packaging -p no:cacheprovider "${workers[@]}"

cat "$out/report.md" 2>/dev/null
echo
if [ "$name" = no-gpu ]; then
  echo "VERDICT: no GPU was here, nothing about CUDA was measured${failed:+; failed besides: ${failed[*]}}"
  [ ${#failed[@]} -eq 0 ]
elif [ ${#failed[@]} -eq 0 ]; then
  echo "VERDICT: all passed on $name at $(git rev-parse --short HEAD 2>/dev/null)"
else
  echo "VERDICT: failed: ${failed[*]}"
  exit 1
fi
