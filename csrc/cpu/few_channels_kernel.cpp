// The steps of csrc/cpu/few_channels.h.
#include "core/window.h"
#include "cpu/buffer.h"
#include "cpu/few_channels.h"
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Element `k` of a run is tap column k / depth of channel k % depth.
static inline int64_t weight_at(const FewChannels& p, const Filter& f, int64_t o, int64_t r,
                                int64_t k) {
  return o * f.stride[0] + k % p.input.depth * f.stride[1] + r * f.stride[2] +
         k / p.input.depth * f.stride[3];
}

template <typename scalar_t>
void few_channels_filters(const FewChannels& p, const Filter& f, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kCols = Gemm<acc_t>::kCols;
  const scalar_t* weight = static_cast<const scalar_t*>(f.weight);
  const int64_t taps = p.kernel[0] * p.run();
  for (int64_t o = begin; o < end; ++o) {
    acc_t* to = static_cast<acc_t*>(p.filters) + o / kCols * taps * kCols + o % kCols;
    for (int64_t i = 0; i < taps; ++i) {
      to[i * kCols] =
          o < p.maps ? to_acc(weight[weight_at(p, f, o, i / p.run(), i % p.run())]) : acc_t(0);
    }
  }
}

// Sums of kRows neighbouring outputs in one panel of maps. `a` is the first output's first run.
template <typename acc_t, int kRowStep, int kRows>
static void multiply_runs(const FewChannels& p, const acc_t* a, const acc_t* b, acc_t* c) {
  using G = Gemm<acc_t>;
  const int64_t pitch = p.input.cols * p.input.depth, run = p.run();
  const int64_t together = max_of(1, 2 * G::kChain / run);  // runs in a chain
  for (int64_t r = 0; r < p.kernel[0]; r += together) {
    PanelSums<acc_t, G::kVectors, kRows> sums;
    for (int64_t i = r; i < min_of(r + together, p.kernel[0]); ++i) {
      const acc_t* row = a + i * pitch;
      for (int64_t k = 0; k < run; ++k, b += G::kCols) {
        sums.template add_products<kRowStep>(row + k, b);
      }
    }
    if (r == 0) {
      sums.template store_to<false>(c);
    } else {
      sums.template store_to<true>(c);
    }
  }
}

// Up to kRows outputs of a row, maps [first, ...) of one panel, pixel after pixel: stored line by
// line where the maps lie side by side.
template <typename scalar_t>
static void store_outputs(const FewChannels& p, const accumulate_t<scalar_t>* c, int64_t count,
                          int64_t first, scalar_t* to) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t maps = min_of(G::kCols, p.maps - first);
  const bool past_caches = is_large_result(p.output_bytes);
  vec_t<acc_t> bias[G::kVectors] = {};
  for (int v = 0; p.bias != nullptr && v * kLanes < maps; ++v) {
    bias[v] = load_n(static_cast<const scalar_t*>(p.bias) + first + v * kLanes,
                     int(min_of(kLanes, maps - v * kLanes)));
  }
  for (int64_t i = 0; i < count; ++i, c += G::kCols) {
    for (int v = 0; v * kLanes < maps; ++v) {
      const int n = int(min_of(kLanes, maps - v * kLanes));
      vec_t<acc_t> value = load(c + v * kLanes) + bias[v];
      if (p.relu) value = value < 0 ? vec_t<acc_t>{} : value;  // a NaN stays
      scalar_t* at = to + (first + v * kLanes) * p.output.stride[1] + i * p.output.stride[3];
      if (p.output.stride[1] != 1) {
        for (int l = 0; l < n; ++l) from_acc(acc_t(value[l]), at[l * p.output.stride[1]]);
      } else if (past_caches && n == kLanes) {
        store_past_caches(value, at);
      } else {
        store_n(value, at, n);
      }
    }
  }
}

template <typename scalar_t, int kRowStep, int kRows>
static void output_rows(const FewChannels& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  const int64_t pitch = p.input.cols * p.input.depth, taps = p.kernel[0] * p.run();
  Buffer<acc_t> c(kRows * G::kCols);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.outputs[0], y = unit % p.outputs[0];
    const acc_t* row =
        static_cast<const acc_t*>(p.input.memory) + (n * p.input.rows + y * p.stride[0]) * pitch;
    scalar_t* to =
        static_cast<scalar_t*>(p.output.image) + n * p.output.stride[0] + y * p.output.stride[2];
    for (int64_t o = 0; o < p.maps; o += G::kCols) {  // its filters stay in the first cache
      const acc_t* filters = static_cast<const acc_t*>(p.filters) + o * taps;
      for (int64_t x = 0; x < p.outputs[1]; x += kRows) {
        multiply_runs<acc_t, kRowStep, kRows>(p, row + x * kRowStep, filters, c.data());
        store_outputs(p, c.data(), min_of(kRows, p.outputs[1] - x), o, to + x * p.output.stride[3]);
      }
    }
  }
}

// One row less where that leaves fewer of a panel's rows unused: 55 and 110 outputs are panels
// of 11.
template <typename scalar_t, int kRowStep>
static void output_rows(const FewChannels& p, int64_t begin, int64_t end) {
  constexpr int kRows = Gemm<accumulate_t<scalar_t>>::kRows;
  if (ceil_div(p.outputs[1], kRows - 1) == ceil_div(p.outputs[1], kRows)) {
    output_rows<scalar_t, kRowStep, kRows - 1>(p, begin, end);
  } else {
    output_rows<scalar_t, kRowStep, kRows>(p, begin, end);
  }
}

template <typename scalar_t>
static void output_rows(const FewChannels& p, int64_t begin, int64_t end) {
  switch (p.row_step()) {
    case 1:
      return output_rows<scalar_t, 1>(p, begin, end);
    case 2:
      return output_rows<scalar_t, 2>(p, begin, end);
    case 3:
      return output_rows<scalar_t, 3>(p, begin, end);
    case 4:
      return output_rows<scalar_t, 4>(p, begin, end);
    case 6:
      return output_rows<scalar_t, 6>(p, begin, end);
    case 8:
      return output_rows<scalar_t, 8>(p, begin, end);
    case 12:
      return output_rows<scalar_t, 12>(p, begin, end);
  }
}

template <typename scalar_t>
void few_channels_outputs(const FewChannels& p, int64_t begin, int64_t end) {
  output_rows<scalar_t>(p, begin, end);
  if (is_large_result(p.output_bytes)) finish_stores_past_caches();
}

// c += the product of a row's outputs with their gradients in one panel of maps: kRows elements of
// the run, from `a` on.
template <typename acc_t, int kRows>
static void add_row(const FewChannels& p, const acc_t* a, const acc_t* b, acc_t* c) {
  using G = Gemm<acc_t>;
  const int64_t depth = p.grad_output.depth;
  for (int64_t x = 0; x < p.outputs[1]; x += G::kChain) {
    multiply_chain<acc_t, G::kVectors, kRows>(a + x * p.row_step(), p.row_step(), b + x * depth,
                                              depth, min_of(G::kChain, p.outputs[1] - x), c);
  }
}

// The weight's gradient over rows of one image: the product's rows are the run's elements, its
// columns maps, and the sum goes over outputs. The gradients of a row's outputs in one panel of
// maps stay in the first cache while all taps meet them.
template <typename scalar_t>
void few_channels_products(const FewChannels& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  const int64_t pitch = p.input.cols * p.input.depth, depth = p.grad_output.depth, run = p.run();
  const int64_t share = ceil_div(p.outputs[0], kFewChannelsParts);
  const int64_t panels = ceil_div(p.maps, G::kCols);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / kFewChannelsParts, first = unit % kFewChannelsParts * share;
    acc_t* sums = static_cast<acc_t*>(p.sums) + unit * p.sums_size();
    for (int64_t y = first; y < min_of(first + share, p.outputs[0]); ++y) {
      const acc_t* image =
          static_cast<const acc_t*>(p.input.memory) + (n * p.input.rows + y * p.stride[0]) * pitch;
      const acc_t* grads = static_cast<const acc_t*>(p.grad_output.memory) +
                           (n * p.outputs[0] + y) * p.outputs[1] * depth;
      for (int64_t panel = 0; panel < panels; ++panel) {
        const acc_t* b = grads + panel * G::kCols;
        acc_t* c = sums + panel * G::kRows * G::kCols;
        for (int64_t r = 0; r < p.kernel[0]; ++r) {
          const acc_t* a = image + r * pitch;
          for (int64_t k = 0; k < run; k += G::kRows, c += panels * G::kRows * G::kCols) {
            if (run - k <= G::kRows / 2) {
              add_row<acc_t, G::kRows / 2>(p, a + k, b, c);
            } else {
              add_row<acc_t, G::kRows>(p, a + k, b, c);
            }
          }
        }
      }
    }
  }
}

template <typename scalar_t>
void few_channels_weights(const FewChannels& p, const Filter& f, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  scalar_t* weight = static_cast<scalar_t*>(f.weight);
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t panels = ceil_div(p.maps, G::kCols), run_panels = ceil_div(p.run(), G::kRows);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t r = unit / p.run(), k = unit % p.run();
    const acc_t* row =
        static_cast<const acc_t*>(p.sums) +
        ((r * run_panels + k / G::kRows) * panels * G::kRows + k % G::kRows) * G::kCols;
    for (int64_t o = 0; o < p.maps; o += kLanes) {
      const acc_t* at = row + o / G::kCols * G::kRows * G::kCols + o % G::kCols;
      vec_t<acc_t> sum{};
      for (int64_t part = 0; part < p.parts; ++part) sum += load(at + part * p.sums_size());
      for (int l = 0; l < min_of(kLanes, p.maps - o); ++l) {
        from_acc(acc_t(sum[l]), weight[weight_at(p, f, o + l, r, k)]);
      }
    }
  }
}

#define INSTANTIATE(scalar_t)                                                              \
  template void few_channels_filters<scalar_t>(const FewChannels&, const Filter&, int64_t, \
                                               int64_t);                                   \
  template void few_channels_outputs<scalar_t>(const FewChannels&, int64_t, int64_t);      \
  template void few_channels_products<scalar_t>(const FewChannels&, int64_t, int64_t);     \
  template void few_channels_weights<scalar_t>(const FewChannels&, const Filter&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
