// fastconv::cuda_probe(x): x + 1 in float32. Proves that the CUDA library was built for this GPU,
// finds torch's current stream, and runs.
#include "cuda/probe.h"

#include <torch/csrc/stable/library.h>

#include "cuda/device.h"
#include "glue/dispatch.h"

namespace fastconv {

static Tensor cuda_probe(const Tensor& input) {
  const char* op = "cuda_probe";
  FASTCONV_CHECK(op, input.scalar_type() == ScalarType::Float, "input must be float32 (got ",
                 torch::headeronly::toString(input.scalar_type()), ")");
  const CudaCall call(op, input);
  const Tensor x = contiguous_as(input, MemoryFormat::Contiguous);
  Tensor output = torch::stable::empty_like(x);
  call.check(
      launch_cuda_probe(data<float>(x), mutable_data<float>(output), x.numel(), call.stream()));
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { m.impl("cuda_probe", TORCH_BOX(&cuda_probe)); }

}  // namespace fastconv
