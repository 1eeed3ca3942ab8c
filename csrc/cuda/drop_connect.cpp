#include "cuda/drop_connect.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/drop_connect.h"
#include "glue/random.h"

namespace fastconv {

// The problem with this probability; its sizes are left for the caller, and the seed stays on the
// GPU, where the kernels read it.
static DropConnect problem_of(const char* op, const Tensor& seed, double p) {
  check_seed(op, seed);
  return drop_connect_of(op, 0, p);
}

static Tensor drop_connect(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                           const Tensor& seed, double p) {
  const char* op = "drop_connect";
  DropConnect problem = problem_of(op, seed, p);
  set_forward_sizes(op, problem, input, weight, bias);
  check_same_device(op, "seed", seed, "input", input);

  const CudaCall call(op, input);
  const Tensor x = row_major(input), w = row_major(weight);
  const std::optional<Tensor> b = bias ? std::optional(row_major(*bias)) : std::nullopt;
  const int64_t bias_stride = b && b->dim() == 2 ? problem.outputs : 0;
  Tensor output = new_matrix(x, problem.batch, problem.outputs);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      call.check(launch_drop_connect(
          data<scalar_t>(x), data<scalar_t>(w), b ? data<scalar_t>(*b) : nullptr, bias_stride,
          mutable_data<scalar_t>(output), problem, data<int64_t>(seed), call.stream())))
  return output;
}

static Tensor drop_connect_input_grad(const Tensor& grad_output, const Tensor& weight,
                                      const Tensor& seed, double p) {
  const char* op = "drop_connect_input_grad";
  DropConnect problem = problem_of(op, seed, p);
  set_input_grad_sizes(op, problem, grad_output, weight);
  check_same_device(op, "seed", seed, "grad_output", grad_output);

  const CudaCall call(op, grad_output);
  const Tensor g = row_major(grad_output), w = row_major(weight);
  Tensor grad_input = new_matrix(g, problem.batch, problem.inputs);
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(), call.check(launch_drop_connect_input_grad(
                           data<scalar_t>(g), data<scalar_t>(w), mutable_data<scalar_t>(grad_input),
                           problem, data<int64_t>(seed), call.stream())))
  return grad_input;
}

static Tensor drop_connect_weight_grad(const Tensor& grad_output, const Tensor& input,
                                       const Tensor& seed, double p) {
  const char* op = "drop_connect_weight_grad";
  DropConnect problem = problem_of(op, seed, p);
  set_weight_grad_sizes(op, problem, grad_output, input);
  check_same_device(op, "seed", seed, "grad_output", grad_output);

  const CudaCall call(op, grad_output);
  const Tensor g = row_major(grad_output), x = row_major(input);
  Tensor grad_weight = new_matrix(g, problem.outputs, problem.inputs);
  FASTCONV_DISPATCH_FLOATING(g.scalar_type(), call.check(launch_drop_connect_weight_grad(
                                                  data<scalar_t>(g), data<scalar_t>(x),
                                                  mutable_data<scalar_t>(grad_weight), problem,
                                                  data<int64_t>(seed), call.stream())))
  return grad_weight;
}

static Tensor drop_connect_mask(const Tensor& seed, int64_t examples, int64_t outputs,
                                int64_t first_input, int64_t end_input, double p) {
  const char* op = "drop_connect_mask";
  DropConnect problem = problem_of(op, seed, p);
  set_mask_sizes(op, problem, examples, outputs, first_input, end_input);
  check_image_size(op, "the mask", problem.outputs * problem.inputs);

  const CudaCall call(op, seed);
  Tensor mask = new_tensor(seed, {examples, outputs, problem.inputs}, ScalarType::Bool,
                           MemoryFormat::Contiguous);
  call.check(launch_drop_connect_mask(mutable_data<uint8_t>(mask), first_input, problem,
                                      data<int64_t>(seed), call.stream()));
  return mask;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("drop_connect", TORCH_BOX(&drop_connect));
  m.impl("drop_connect_input_grad", TORCH_BOX(&drop_connect_input_grad));
  m.impl("drop_connect_weight_grad", TORCH_BOX(&drop_connect_weight_grad));
  m.impl("drop_connect_mask", TORCH_BOX(&drop_connect_mask));
}

}  // namespace fastconv
