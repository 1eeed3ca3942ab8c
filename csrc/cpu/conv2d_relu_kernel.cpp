// The kernel of csrc/cpu/conv2d_relu.h.
#include "core/window.h"
#include "cpu/conv2d_relu.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

// What passes at [i, ...); a NaN of the output lets it pass, as torch's does.
template <typename scalar_t, class Part>
static inline auto passing(const scalar_t* grad_output, const scalar_t* output, int64_t i,
                           Part part) {
  const auto g = load_part(grad_output + i, part);
  return load_part(output + i, part) <= 0 ? decltype(g + g){} : g;
}

template <typename scalar_t>
void conv2d_relu_grad(const ReluGrad& p, const scalar_t* grad_output, const scalar_t* output,
                      scalar_t* grad, accumulate_t<scalar_t>* sums, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.maps_last) {
      acc_t* to = sums + unit * p.maps;
      const int64_t first = unit * ReluGrad::kTogether;
      const int64_t last = min_of(first + ReluGrad::kTogether, p.images * p.positions);
      for (int64_t i = first * p.maps; i < last * p.maps; i += p.maps) {
        for_parts<acc_t>(0, p.maps, [&](int64_t m, auto part) {
          const auto g = passing(grad_output, output, i + m, part);
          store_part(g, grad + i + m, part);
          store_part(i == first * p.maps ? g : load_part(to + m, part) + g, to + m, part);
        });
      }
    } else {
      const int64_t first = unit * p.positions, last = first + p.positions;
      acc_t sum = 0;
      for (int64_t i = first; i < last; i += ReluGrad::kTogether) {
        acc_t rest = 0;
        vec_t<acc_t> lanes{};
        for_parts<acc_t>(i, min_of(i + ReluGrad::kTogether, last), [&](int64_t k, auto part) {
          const auto g = passing(grad_output, output, k, part);
          store_part(g, grad + k, part);
          if constexpr (std::is_same_v<decltype(part), Whole>) {
            lanes += g;
          } else {
            rest += g;
          }
        });
        sum += sum_of_lanes<acc_t>(lanes) + rest;
      }
      sums[unit] = sum;
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                 \
  template void conv2d_relu_grad<scalar_t>(const ReluGrad&, const scalar_t*, const scalar_t*, \
                                           scalar_t*, accumulate_t<scalar_t>*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
