// What the host side of every CUDA op needs: the input's device, torch's current stream, and a
// check of each launch.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>

#include "core/conv2d.h"
#include "glue/tensor.h"

namespace fastconv {

// Makes the tensor's device current while it lives.
class CudaCall {
 public:
  CudaCall(const char* op, const Tensor& t) : op_(op), guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

  void check(cudaError_t error) const {
    if (error == cudaErrorNoKernelImageForDevice) refuse_device();
    FASTCONV_CHECK(op_, error == cudaSuccess,
                   "the kernel's launch failed: ", cudaGetErrorString(error));
  }

 private:
  void refuse_device() const {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    fail(op_, "this build holds no code for a GPU of compute capability ", major, ".", minor,
         ": build it anew with TORCH_CUDA_ARCH_LIST=", major, ".", minor);
  }

  const char* op_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Kernels split the batch so that each part has less than 2^31 elements; one image must fit.
inline void check_image_size(const char* op, const char* name, int64_t elements) {
  constexpr int64_t kMost = INT32_MAX - 1024;
  FASTCONV_CHECK(op, elements <= kMost, "one image of ", name, " must have at most ", kMost,
                 " elements on a GPU (got ", elements, ")");
}
// Positions in the padded input are 32-bit numbers.
inline void check_span(const char* op, const Window& axis) {
  const int64_t span = axis.dilation * (axis.kernel - 1) + 1;
  FASTCONV_CHECK(op, axis.input + 2 * axis.padding + span <= INT32_MAX,
                 "the padded input and the window must span less than 2^31 elements on a GPU "
                 "(got input size ",
                 axis.input, ", kernel_size=", axis.kernel, ", padding=", axis.padding,
                 ", dilation=", axis.dilation, ")");
}
inline void check_pool2d_image(const char* op, const Pool2d& p) {
  check_image_size(op, "input", p.channels * p.h.input * p.w.input);
  check_image_size(op, "output", p.channels * p.h.output * p.w.output);
  check_span(op, p.h);
  check_span(op, p.w);
}

// Kernels count pixels and taps in 32 bits, and step within an image in 32 bits.
inline void check_conv2d_extents(const char* op, const Conv2d& p, int64_t tiles = 1) {
  constexpr int64_t kMost = INT32_MAX - 1024;
  constexpr int64_t kMostGroups = 65535;  // a grid's extent
  FASTCONV_CHECK(op, p.groups <= kMostGroups, "groups must be at most ", kMostGroups,
                 " on a GPU (got groups=", p.groups, ")");
  check_image_size(op, "input", p.groups * p.in_channels * p.h.input * p.w.input);
  check_image_size(op, "output", p.groups * p.out_channels * p.h.output * p.w.output);
  check_span(op, p.h);
  check_span(op, p.w);
  const int64_t pixels = p.batch * max_of(p.h.input * p.w.input, p.h.output * p.w.output);
  FASTCONV_CHECK(op, pixels <= kMost, "a batch must have at most ", kMost, " pixels on a GPU (got ",
                 pixels, ")");
  const int64_t weights =
      tiles * p.groups * p.out_channels * p.in_channels * p.h.kernel * p.w.kernel;
  FASTCONV_CHECK(op, weights <= kMost, "weight must have at most ", kMost,
                 " elements on a GPU (got ", weights, ")");
}

// Tensor cores copy 16 bytes at a time; storage that torch allocates begins at such an address.
inline Tensor aligned_as(const Tensor& t, MemoryFormat format) {
  const Tensor dense = contiguous_as(t, format);
  const bool aligned = reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0;
  return aligned ? dense : torch::stable::clone(dense);
}

}  // namespace fastconv
