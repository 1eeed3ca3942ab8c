// output[n,g,i] = max over j < pool_size of input[n, g*stride + j, i],   switches[n,g,i] = that j
// grad_input[n,c,i] = sum of grad_output[n,g,i] over the groups g whose switch points at map c
//
// The first of equal maxima is recorded; a NaN is larger than everything, and the last NaN of a
// group is the one recorded: max_pool2d's rules.
//
// maps first: one vector holds kLanes pixels of one map. maps last: one vector holds kLanes groups
// of one pixel, and of pairs of maps those of the pixels behind it too. Backward, the groups that
// share a map are added in their order: no atomics, and the same bits in both layouts.
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

// body(kernel), the number of maps of a group, as a constant for the usual one.
template <class F>
static inline void with_group(const Maxout& p, const F& body) {
  if (p.maps.kernel == 2) return body(std::integral_constant<int64_t, 2>());
  body(p.maps.kernel);
}

// Map g of the output of one batch element.
template <typename scalar_t>
static void maxout_map(const scalar_t* maps, scalar_t* output, uint8_t* switches, const Maxout& p,
                       bool is_large) {
  using acc_t = accumulate_t<scalar_t>;
  with_group(p, [&](auto kernel) {
    for_each_vector<acc_t>(p.pixels, [&](int64_t i, auto n) {
      Best<acc_t> best;
      for (int64_t j = 0; j < kernel; ++j) best.meet(load_n(maps + j * p.pixels + i, n), j);
      store_result_n(best.value, output + i, n, is_large);
      store_bytes_n<acc_t>(best.which, switches + i, n);
    });
  });
}

// Whether maps that are the fastest axis form pairs, one after another through all pixels.
static inline bool are_pairs(const Maxout& p) {
  return p.maps_last && p.maps.kernel == 2 && p.maps.stride == 2 &&
         p.maps.input == 2 * p.maps.output;
}

// `count` such pairs.
template <typename scalar_t>
static void maxout_pairs(const scalar_t* input, scalar_t* output, uint8_t* switches, int64_t count,
                         bool is_large) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
  for_each_vector<acc_t>(count, [&](int64_t g, auto n) {
    const auto low = load_n(input + 2 * g, int(min_of(kLanes, 2 * n)));
    const auto high = load_n(input + 2 * g + kLanes, int(max_of(0, 2 * n - kLanes)));
    Best<acc_t> best;
    best.meet(every_second<0>(low, high, lanes), 0);
    best.meet(every_second<1>(low, high, lanes), 1);
    store_result_n(best.value, output + g, n, is_large);
    store_bytes_n<acc_t>(best.which, switches + g, n);
  });
}

template <typename scalar_t>
static void route_to_pairs(const scalar_t* grad_output, const uint8_t* switches,
                           scalar_t* grad_input, int64_t count, bool is_large) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
  for_each_vector<acc_t>(count, [&](int64_t g, auto n) {
    const vec_t<acc_t> grad = load_n(grad_output + g, n), zero{};
    const int_vec_t<acc_t> which = load_bytes_n<acc_t>(switches + g, n);
    const vec_t<acc_t> first = which == 0 ? grad : zero, second = which == 1 ? grad : zero;
    const vec_t<acc_t> low = zip<0>(first, second, lanes), high = zip<1>(first, second, lanes);
    scalar_t* to = grad_input + 2 * g;
    if constexpr (std::is_same_v<decltype(n), int>) {
      store_n(low, to, int(min_of(kLanes, 2 * n)));
      store_n(high, to + kLanes, int(max_of(0, 2 * n - kLanes)));
    } else {
      store_result_n(low, to, n, is_large);
      store_result_n(high, to + kLanes, n, is_large);
    }
  });
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
  const bool is_large = is_large_result(p.batch * p.pixels * maps.output * sizeof(scalar_t));
  if (are_pairs(p)) {
    const int64_t i = begin * maps.input, o = begin * maps.output,
                  count = (end - begin) * maps.output;
    maxout_pairs(input + i, output + o, switches + o, count, is_large);
    if (is_large) finish_stores_past_caches();
    return;
  }
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
    maxout_map(input + i, output + o, switches + o, p, is_large);
  }
  if (is_large) finish_stores_past_caches();
}

// Map c of the gradient of one batch element, from the groups that cover it.
template <typename scalar_t>
static void route_to_map(const scalar_t* grad_output, const uint8_t* switches, scalar_t* grad_input,
                         const Maxout& p, int64_t c) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t g0 = p.maps.first_output(c), g1 = p.maps.end_output(c);
  for_each_vector<acc_t>(p.pixels, [&](int64_t i, auto n) {
    vec_t<acc_t> sum{};
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t at = g * p.pixels + i;
      const auto hit =
          load_bytes_n<acc_t>(switches + at, n) == int_vec_t<acc_t>{} + int(p.maps.tap(g, c));
      sum = hit ? sum + load_n(grad_output + at, n) : sum;
    }
    store_n(sum, grad_input + i, n);
  });
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
  if (are_pairs(p)) {
    const int64_t i = begin * maps.input, o = begin * maps.output,
                  count = (end - begin) * maps.output;
    const bool is_large = is_large_result(p.batch * p.pixels * maps.input * sizeof(scalar_t));
    route_to_pairs(grad_output + o, switches + o, grad_input + i, count, is_large);
    if (is_large) finish_stores_past_caches();
    return;
  }
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
