#!/bin/sh
# The CPU kernels under sanitizers, through the tests of the ops:
#
#   tests/sanitize.sh address            AddressSanitizer
#   tests/sanitize.sh undefined          UndefinedBehaviorSanitizer, without a way on
#   tests/sanitize.sh thread             ThreadSanitizer
#   tests/sanitize.sh address tests/ops/test_conv2d.py -k folded
#
# Builds in a copy of the committed tree, so that the working tree keeps its libraries. Needs gcc.
# SANITIZE_FOLDER keeps the build for another run. docs/reliability.md tells what was run when.
#
# ThreadSanitizer cannot see how the threads of OpenMP wait for each other: it would report every
# parallel loop. So that build gives the parts of a loop to std::thread (FASTCONV_STD_THREADS in
# csrc/cpu/dispatch.h), four at a time however small, and torch, which is not instrumented, keeps
# to one thread. What is checked: that the parts of each kernel, and ops called from several Python
# threads, share nothing that one of them writes.
set -eu
kind=${1:-}
root=$(cd "$(dirname "$0")/.." && pwd)
checks='not compile and not proofs and not every_instruction_set and not memory_does_not_grow'
case $kind in
  address) flags="-fsanitize=address" runtime=libasan.so ;;
  undefined) flags="-fsanitize=undefined -fno-sanitize-recover=undefined" runtime=libubsan.so ;;
  thread) flags="-fsanitize=thread -DFASTCONV_STD_THREADS" runtime=libtsan.so ;;
  *) echo "sanitize.sh: the first argument must be address, undefined or thread (got $kind)" >&2; exit 2 ;;
esac
shift
copy=${SANITIZE_FOLDER:-$(mktemp -d)}
[ -n "${SANITIZE_FOLDER:-}" ] || trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy"
git -C "$root" archive HEAD | tar -x -C "$copy"
cd "$copy"
CXX="${CXX:-c++} $flags -g1 -fno-omit-frame-pointer" FASTCONV_CUDA=0 \
  python setup.py build_ext --inplace >build.log 2>&1 || { tail -20 build.log; exit 1; }
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export TSAN_OPTIONS=allocator_may_return_null=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0:exitcode=66
export UBSAN_OPTIONS=print_stacktrace=1
[ $# -gt 0 ] || set -- tests/ops tests/reliability/test_numerics.py -k "$checks"
[ "$kind" != thread ] || export OMP_NUM_THREADS=1
# Without address randomisation, whose range newer kernels made too wide for the shadow memory.
LD_PRELOAD="$(gcc -print-file-name=$runtime) $(gcc -print-file-name=libstdc++.so)" \
  setarch -R python -m pytest -q -x -p no:cacheprovider "$@"
