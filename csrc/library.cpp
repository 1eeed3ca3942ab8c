// The index of every op, and the Python module that carries what is not a tensor op.
//
// Each op is documented on its page, fastconv/ops/<op>.py; csrc/README.md shows how a call travels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <array>

#include "core/philox.h"
#include "cpu/isa.h"
#include "cpu/kept_memory.h"
#include "cpu/prepare_images_numpy.h"

STABLE_TORCH_LIBRARY(fastconv, m) {
  m.def(
      "avg_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, "
      "bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor grad_output, SymInt[] input_size, bool channels_last, "
      "int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad, "
      "int? divisor_override) -> Tensor");
  m.def("cuda_probe(Tensor input) -> Tensor");
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, "
      "int[] dilation, int groups, bool allow_tf32, bool relu, bool warpgroups=False) -> Tensor");
  m.def("conv2d_filters(Tensor weight, int[] stride, int groups) -> Tensor");
  m.def(
      "conv2d_prepared(Tensor input, Tensor weight, Tensor filters, Tensor? bias, int[] stride, "
      "SymInt[] padding, int groups, bool relu) -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad_output, Tensor weight, SymInt[] input_size, int[] stride, "
      "SymInt[] padding, int[] dilation, int groups, bool allow_tf32, bool channels_last, "
      "bool warpgroups=False) -> Tensor");
  m.def("conv2d_relu_grad(Tensor grad_output, Tensor output) -> (Tensor grad, Tensor bias_grad)");
  m.def(
      "conv2d_weight_grad(Tensor grad_output, Tensor input, SymInt[] weight_size, int[] stride, "
      "SymInt[] padding, int[] dilation, int groups, bool allow_tf32, bool channels_last, "
      "bool warpgroups=False) -> Tensor");
  m.def("drop_connect(Tensor input, Tensor weight, Tensor? bias, Tensor seed, float p) -> Tensor");
  m.def(
      "drop_connect_input_grad(Tensor grad_output, Tensor weight, Tensor seed, float p) -> Tensor");
  m.def(
      "drop_connect_weight_grad(Tensor grad_output, Tensor input, Tensor seed, float p) -> Tensor");
  m.def(
      "drop_connect_mask(Tensor seed, SymInt examples, SymInt outputs, SymInt first_input, "
      "SymInt end_input, float p) -> Tensor");
  m.def(
      "local_contrast_norm(Tensor input, int kernel_size, float sigma, bool across_maps, "
      "bool mean_divisor, float eps) -> (Tensor output, Tensor statistics)");
  m.def(
      "local_contrast_norm_backward(Tensor grad_output, Tensor input, Tensor statistics, "
      "int kernel_size, float sigma, bool across_maps, bool mean_divisor, float eps) -> Tensor");
  m.def(
      "local_response_norm(Tensor input, int size, float alpha, float beta, float k, bool within) "
      "-> Tensor");
  m.def(
      "local_response_norm_backward(Tensor grad_output, Tensor input, int size, float alpha, "
      "float beta, float k, bool within) -> Tensor");
  m.def(
      "local_response_norm_max_pool2d(Tensor input, int size, float alpha, float beta, float k, "
      "int[] kernel_size, int[] stride, int[] padding, int[] dilation, bool ceil_mode, "
      "bool with_switches=True) -> (Tensor output, Tensor switches)");
  m.def(
      "local_response_norm_max_pool2d_backward(Tensor grad_output, Tensor input, Tensor switches, "
      "int size, float alpha, float beta, float k, int[] kernel_size, int[] stride, "
      "int[] padding, int[] dilation) -> Tensor");
  m.def(
      "max_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
      "bool ceil_mode, bool with_switches=True) -> (Tensor output, Tensor switches)");
  m.def(
      "max_unpool2d(Tensor input, Tensor switches, int[] kernel_size, int[] stride, "
      "int[] padding, int[] dilation, SymInt[] output_size, bool overwrite) -> Tensor");
  m.def(
      "max_unpool2d_backward(Tensor grad_output, Tensor switches, int[] kernel_size, "
      "int[] stride, int[] padding, int[] dilation, bool overwrite) -> Tensor");
  m.def("maxout(Tensor input, int pool_size, int stride) -> (Tensor output, Tensor switches)");
  m.def(
      "maxout_backward(Tensor grad_output, Tensor switches, SymInt maps, bool channels_last, "
      "int pool_size, int stride) -> Tensor");
  m.def(
      "prepare_images(Tensor images, Tensor? offsets, Tensor? flips, Tensor? shifts, Tensor? mean, "
      "Tensor? mean_offsets, float[] unit, SymInt[] size, ScalarType dtype, bool channels_last) -> "
      "Tensor");
  m.def(
      "stochastic_pool2d(Tensor input, Tensor seed, int[] kernel_size, int[] stride, "
      "int[] padding, bool ceil_mode) -> (Tensor output, Tensor switches)");
  m.def(
      "stochastic_pool2d_mean(Tensor input, int[] kernel_size, int[] stride, int[] padding, "
      "bool ceil_mode) -> Tensor");
  m.def(
      "stochastic_pool2d_mean_backward(Tensor grad_output, Tensor input, int[] kernel_size, "
      "int[] stride, int[] padding, bool ceil_mode) -> Tensor");
  m.def(
      "sum_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode) "
      "-> Tensor");
  m.def(
      "tiled_conv2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
      "int groups) -> Tensor");
  m.def(
      "tiled_conv2d_input_grad(Tensor grad_output, Tensor weight, SymInt[] input_size, "
      "int[] stride, int[] padding, int groups, bool channels_last) -> Tensor");
  m.def(
      "tiled_conv2d_weight_grad(Tensor grad_output, Tensor input, SymInt[] weight_size, "
      "int[] stride, int[] padding, int groups) -> Tensor");
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
      "philox4x32",
      [](uint64_t seed, uint64_t counter, uint64_t counter_high) {
        const fastconv::Philox4 drawn = fastconv::philox4x32(seed, counter, counter_high);
        return std::array<uint32_t, 4>{drawn.word[0], drawn.word[1], drawn.word[2], drawn.word[3]};
      },
      pybind11::arg("seed"), pybind11::arg("counter"), pybind11::arg("counter_high") = 0,
      "The four 32-bit words that Philox4x32-10 gives for a seed and a 128-bit counter.");
  m.def("prepare_image", &fastconv::prepare_image, pybind11::arg("pixels"), pybind11::arg("mean"),
        pybind11::arg("shift"), pybind11::arg("unit"), pybind11::arg("mirrored"),
        "One image of prepare_images, from uint8 pixels (H, W, C) to float32 (H, W, C); mean is "
        "(H, W, C) or (C,), shift and unit are (C,). Other threads run meanwhile.");
  m.def("release_kept_memory", &fastconv::release_kept_memory,
        "Returns to the system the memory kept for large results; the number of bytes.");
  m.def(
      "cpu_capability", [] { return fastconv::isa_name(fastconv::current_isa()); },
      "The instruction set that the CPU kernels run with: baseline, avx2 or avx512.");
}
