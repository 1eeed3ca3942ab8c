#!/bin/sh
# The CPU kernels under sanitizers, through the tests of the ops:
#
#   tests/sanitize.sh address            AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/sanitize.sh thread             ThreadSanitizer
#   tests/sanitize.sh address tests/ops/test_conv2d.py -k folded
#
# Builds in a copy of the committed tree, so that the working tree keeps its libraries. Needs gcc.
set -eu
kind=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -C "$root" archive HEAD | tar -x -C "$copy"
cd "$copy"
case $kind in
  address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined"; runtime=libasan.so ;;
  thread) flags="-fsanitize=thread"; runtime=libtsan.so ;;
  *) echo "sanitize.sh: the first argument must be address or thread (got $kind)" >&2; exit 2 ;;
esac
CXX="${CXX:-c++} $flags -g1 -fno-omit-frame-pointer" FASTCONV_CUDA=0 \
  python setup.py build_ext --inplace >build.log 2>&1 || { tail -20 build.log; exit 1; }
export LD_PRELOAD="$(gcc -print-file-name=$runtime) $(gcc -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1
[ $# -gt 0 ] || set -- tests/ops -k "not compile and not proofs"
python -m pytest -q -x -p no:cacheprovider "$@"
