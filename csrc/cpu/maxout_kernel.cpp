// output[n,g,i] = max over j < pool_size of input[n, g*stride + j, i],   switches[n,g,i] = that j
// grad_input[n,c,i] = sum of grad_output[n,g,i] over the groups g whose switch points at map c
//
// The first of equal maxima is recorded; a NaN is larger than everything, and the last NaN of a
// group is the one recorded: max_pool2d's rules.
//
// maps first: one vector holds kLanes pixels of one map. maps last: one vector holds kLanes groups
// of one pixel. Backward, the groups that share a map are added in their order: no atomics, and the
// same bits in both layouts.
#include <limits>

#include "cpu/maxout.h"
#include "cpu/rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

// The maximum so far of kLanes groups, and where it stands.
template <typename acc_t>
struct Best {
  vec_t<acc_t> value = splat(-std::numeric_limits<acc_t>::infinity());
  int_vec_t<acc_t> which{};

  void meet(vec_t<acc_t> candidate, int64_t j) {
    const auto better = (candidate > value) | (candidate != candidate);
    value = better ? candidate : value;
    which = better ? int_vec_t<acc_t>{} + int(j) : which;
  }
};

// Map g of the output of one batch element.
template <typename scalar_t>
static void maxout_map(const scalar_t* maps, scalar_t* output, uint8_t* switches, const Maxout& p) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  for (int64_t i = 0; i < p.pixels; i += kLanes) {
    const int n = int(min_of(kLanes, p.pixels - i));
    Best<acc_t> best;
    for (int64_t j = 0; j < p.maps.kernel; ++j) best.meet(load_n(maps + j * p.pixels + i, n), j);
    store_n(best.value, output + i, n);
    store_bytes_n<acc_t>(best.which, switches + i, n);
  }
}

// One pixel, whose maps are a row over which the groups slide.
template <typename scalar_t, typename acc_t>
static void maxout_pixel(const scalar_t* pixel, scalar_t* output, uint8_t* switches,
                         const Maxout& p, PhasedRows<acc_t>& row) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  read_row(pixel, row.columns(0), p.maps.input);
  row.split(0);
  for (int64_t g = 0; g < p.maps.output; g += kLanes) {
    const int n = int(min_of(kLanes, p.maps.output - g));
    Best<acc_t> best;
    for (int64_t j = 0; j < p.maps.kernel; ++j) best.meet(load(row.tap(0, j) + g), j);
    store_n(best.value, output + g, n);
    store_bytes_n<acc_t>(best.which, switches + g, n);
  }
}

template <typename scalar_t>
void maxout_forward(const scalar_t* input, scalar_t* output, uint8_t* switches, const Maxout& p,
                    int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Window& maps = p.maps;
  if (p.maps_last) {
    PhasedRows<acc_t> row(maps, 1);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t o = unit * maps.output;
      maxout_pixel(input + unit * maps.input, output + o, switches + o, p, row);
    }
    return;
  }
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / maps.output, g = unit % maps.output;
    const int64_t i = (n * maps.input + maps.start(g)) * p.pixels, o = unit * p.pixels;
    maxout_map(input + i, output + o, switches + o, p);
  }
}

// Map c of the gradient of one batch element, from the groups that cover it.
template <typename scalar_t>
static void route_to_map(const scalar_t* grad_output, const uint8_t* switches, scalar_t* grad_input,
                         const Maxout& p, int64_t c) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t g0 = p.maps.first_output(c), g1 = p.maps.end_output(c);
  for (int64_t i = 0; i < p.pixels; i += kLanes) {
    const int n = int(min_of(kLanes, p.pixels - i));
    vec_t<acc_t> sum{};
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t at = g * p.pixels + i;
      const auto hit =
          load_bytes_n<acc_t>(switches + at, n) == int_vec_t<acc_t>{} + int(p.maps.tap(g, c));
      sum = hit ? sum + load_n(grad_output + at, n) : sum;
    }
    store_n(sum, grad_input + i, n);
  }
}

// One pixel, whose maps are gathered in a row. The last position of the groups comes first, so that
// each map adds its groups in their order.
template <typename scalar_t, typename acc_t>
static void route_to_pixel(const scalar_t* grad_output, const uint8_t* switches,
                           scalar_t* grad_input, const Maxout& p, PhasedRows<acc_t>& row) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const vec_t<acc_t> zero{};
  row.clear(0);
  for (int64_t g = 0; g < p.maps.output; g += kLanes) {
    const int n = int(min_of(kLanes, p.maps.output - g));
    const vec_t<acc_t> grad = load_n(grad_output + g, n);
    const int_vec_t<acc_t> which = load_bytes_n<acc_t>(switches + g, n);
    for (int64_t j = p.maps.kernel - 1; j >= 0; --j) {
      acc_t* to = row.tap(0, j) + g;
      store(load(to) + (which == int_vec_t<acc_t>{} + int(j) ? grad : zero), to);
    }
  }
  row.join(0);
  write_row(row.columns(0), grad_input, p.maps.input);
}

template <typename scalar_t>
void maxout_backward(const scalar_t* grad_output, const uint8_t* switches, scalar_t* grad_input,
                     const Maxout& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Window& maps = p.maps;
  if (p.maps_last) {
    PhasedRows<acc_t> row(maps, 1);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t o = unit * maps.output;
      route_to_pixel(grad_output + o, switches + o, grad_input + unit * maps.input, p, row);
    }
    return;
  }
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / maps.input, c = unit % maps.input;
    const int64_t o = n * maps.output * p.pixels;
    route_to_map(grad_output + o, switches + o, grad_input + unit * p.pixels, p, c);
  }
}

#define INSTANTIATE(scalar_t)                                                                \
  template void maxout_forward(const scalar_t*, scalar_t*, uint8_t*, const Maxout&, int64_t, \
                               int64_t);                                                     \
  template void maxout_backward(const scalar_t*, const uint8_t*, scalar_t*, const Maxout&,   \
                                int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
