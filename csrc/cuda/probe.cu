// fastconv::cuda_probe(x): x + 1 in float32. Proves that the CUDA library was built for this GPU,
// finds torch's current stream, and runs.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include "glue/tensor.h"

namespace fastconv {

__global__ void cuda_probe_kernel(const float* input, float* output, int64_t count) {
  const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
  if (i < count) output[i] = input[i] + 1.0f;
}

static Tensor cuda_probe(const Tensor& input) {
  const char* op = "cuda_probe";
  FASTCONV_CHECK(op, input.scalar_type() == ScalarType::Float, "input must be float32 (got ",
                 torch::headeronly::toString(input.scalar_type()), ")");
  const torch::stable::accelerator::DeviceGuard guard(input.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(input.get_device_index(), &stream));
  const Tensor x = contiguous_as(input, MemoryFormat::Contiguous);
  Tensor output = torch::stable::empty_like(x);
  const int64_t count = x.numel();
  if (count == 0) return output;
  constexpr int kThreads = 256;
  const unsigned blocks = unsigned((count + kThreads - 1) / kThreads);
  cuda_probe_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const float*>(x.const_data_ptr()), static_cast<float*>(output.mutable_data_ptr()),
      count);
  const cudaError_t error = cudaGetLastError();
  FASTCONV_CHECK(op, error == cudaSuccess, "kernel launch failed: ", cudaGetErrorString(error));
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { m.impl("cuda_probe", TORCH_BOX(&cuda_probe)); }

}  // namespace fastconv
