#include "cpu/stochastic_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/dispatch.h"
#include "glue/stochastic_pool2d.h"

namespace fastconv {

// Splits the windows of p, a unit a row or a plane, over torch's threads.
template <class F>
static void parallel_over_windows(const Pool2d& p, const F& body) {
  const int64_t units = units_of(p, p.h.output);
  const int64_t windows = p.w.output * (p.channels_last ? p.channels : p.h.output);
  parallel_over(units, windows * (10 + 2 * p.h.kernel * p.w.kernel), body);
}

static std::tuple<Tensor, Tensor> stochastic_pool2d(const Tensor& input, const Tensor& seed,
                                                    IntPair kernel_size, IntPair stride,
                                                    IntPair padding, bool ceil_mode) {
  const char* op = "stochastic_pool2d";
  const Pool2d all = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  const Pool2d p = without_long_rows(all);
  const uint64_t key = seed_of(op, seed);

  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, pooled_sizes(all), x.scalar_type(), format);
  Tensor switches = new_tensor(x, pooled_sizes(all), ScalarType::Byte, format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), parallel_over_windows(p, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(
            stochastic_pool2d_forward(data<scalar_t>(x), mutable_data<scalar_t>(output),
                                      mutable_data<uint8_t>(switches), key, p, begin, end));
      }))
  return {output, switches};
}

static Tensor stochastic_pool2d_mean(const Tensor& input, IntPair kernel_size, IntPair stride,
                                     IntPair padding, bool ceil_mode) {
  const char* op = "stochastic_pool2d";
  const Pool2d all = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  const Pool2d p = without_long_rows(all);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, pooled_sizes(all), x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), parallel_over_windows(p, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(stochastic_pool2d_mean_forward(
            data<scalar_t>(x), mutable_data<scalar_t>(output), p, begin, end));
      }))
  return output;
}

static Tensor stochastic_pool2d_mean_backward(const Tensor& grad_output, const Tensor& input,
                                              IntPair kernel_size, IntPair stride, IntPair padding,
                                              bool ceil_mode) {
  const char* op = "stochastic_pool2d_mean_backward";
  const Pool2d all = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  const Pool2d p = without_long_rows(all);
  check_pooled_grad(op, grad_output, input, all);

  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  const ScalarType acc_type =
      x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor means = new_tensor(x, pooled_sizes(all), acc_type, format);
  Tensor sums = new_tensor(x, pooled_sizes(all), acc_type, format);
  Tensor grad_input = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  const int64_t units = units_of(p, p.h.input);
  const int64_t cost = units ? 16 * grad_input.numel() / units : 0;
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), using acc_t = accumulate_t<scalar_t>;
      parallel_over_windows(p,
                            [&](int64_t begin, int64_t end) {
                              FASTCONV_ISA_CALL(stochastic_pool2d_mean_windows(
                                  data<scalar_t>(x), mutable_data<acc_t>(means),
                                  mutable_data<acc_t>(sums), p, begin, end));
                            });
      parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(stochastic_pool2d_mean_backward(
            data<scalar_t>(g), data<scalar_t>(x), data<acc_t>(means), data<acc_t>(sums),
            mutable_data<scalar_t>(grad_input), p, begin, end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, stochastic_pool2d);
  FASTCONV_IMPL(m, stochastic_pool2d_mean);
  FASTCONV_IMPL(m, stochastic_pool2d_mean_backward);
}

}  // namespace fastconv
