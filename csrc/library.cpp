// The index of every op, and the Python module that carries what is not a tensor op.
//
// Each op is documented on its page, fastconv/ops/<op>.py; csrc/README.md shows how a call travels.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>

#include "cpu/isa.h"

STABLE_TORCH_LIBRARY(fastconv, m) {
  m.def("cuda_probe(Tensor input) -> Tensor");
  m.def(
      "max_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
      "bool ceil_mode) -> (Tensor output, Tensor switches)");
  m.def(
      "max_unpool2d(Tensor input, Tensor switches, int[] kernel_size, int[] stride, "
      "int[] padding, int[] dilation, SymInt[] output_size, bool overwrite) -> Tensor");
  m.def(
      "max_unpool2d_backward(Tensor grad_output, Tensor switches, int[] kernel_size, "
      "int[] stride, int[] padding, int[] dilation, bool overwrite) -> Tensor");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastconv's CPU kernels and build information";
  m.def("build_info", [] {
    pybind11::dict info;
    info["version"] = FASTCONV_VERSION;
    info["torch"] = FASTCONV_BUILT_WITH_TORCH;
    info["python"] = FASTCONV_BUILT_WITH_PYTHON;
    info["compiler"] = __VERSION__;
    info["nvcc"] = FASTCONV_BUILT_WITH_NVCC;  // empty: the CUDA library was not built
    info["cuda_architectures"] = FASTCONV_CUDA_ARCHITECTURES;
    return info;
  });
  m.def(
      "cpu_capability", [] { return fastconv::isa_name(fastconv::current_isa()); },
      "The instruction set that the CPU kernels run with: baseline, avx2 or avx512.");
}
