// x_m: the M maps of one image. A: blur by the Gaussian window, rows of A sum to 1 at the borders
// too. Everything below is per position unless summed.
//
//   mean   = A (1/M) sum_m x_m          v_m = x_m - mean
//   s      = sqrt(A (1/M) sum_m v_m^2)  the deviation
//   floor  = max(eps, mean of s over the image) or eps
//   d      = max(floor, s)              y_m = v_m / d
//
// Gradient, with g_m the gradient of y_m and D = sum_m g_m v_m / d^2, so that -D is that of d:
//   of s      t = -D where s > floor, else 0; through the floor, where that is the mean of s over
//             the P positions, every s also gets -(1/P) sum D over the positions where s <= floor
//   of s^2    t / (2 s), and 0 where s = 0 (v is 0 in the whole window)
//   of v_m    h_m = g_m / d + v_m r,  r = (1/M) A' (t / s),  A' the adjoint of A
//   of x_m    h_m - A' (1/M) sum_m h_m,  where sum_m h_m = (sum_m g_m) / d + r sum_m v_m
//
// A is separable: a blur along rows, then one along columns. The mean is blurred relative to each
// element (blur.h): a constant image gives exactly 0, and a constant added to an image costs no
// precision beyond that of the sum itself.
//
// planes: a vector holds kLanes positions, and the maps are added one after another by blocks of
// positions that stay in the cache. interleaved: a vector holds kLanes maps of one position.
#include "cpu/blur.h"
#include "cpu/contrast_norm_maps.h"
#include "cpu/local_contrast_norm.h"
#include "cpu/vec_math.h"

namespace fastconv {
namespace FASTCONV_ISA {

// ---- Forward ----

// max(floor, s); a NaN of either stays.
template <typename V>
static inline V divisor(V s, V floor) {
  return (s > floor) | (s != s) ? s : floor;
}

// work = a, the average (1/M) sum_m x_m, relative to the first map: exact where all maps are equal.
// mean = (1/M) sum_m (x_m - a)^2, what is needed of the maps to know (1/M) sum_m v_m^2 later.
template <typename scalar_t>
static void average_maps(const ContrastForward<scalar_t>& f, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const acc_t share = acc_t(1) / acc_t(f.shape->maps);
  const int64_t next = near_positions(*f.shape) * (f.shape->interleaved ? f.shape->maps : 1);
  const auto add = [&](auto at, auto* sums) {
    sums[0] += at.element(f.input) - at.first_map(f.input);
  };
  const auto finish = [&](auto at, auto* sums) {
    at.put_statistic(at.first_map(f.input) + share * sums[0], f.work);
  };
  const auto add_square = [&](auto at, auto* sums) {
    at.prefetch(f.input + next);
    const auto apart = at.element(f.input) - at.statistic(f.work);
    sums[0] += apart * apart;
  };
  const auto finish_square = [&](auto at, auto* sums) {
    at.put_statistic(share * sums[0], f.mean);
  };
  for_near_positions(*f.shape, begin, end, [&](int64_t first, int64_t last) {
    sum_over_maps<1, acc_t>(*f.shape, first, last, add, finish);
    sum_over_maps<1, acc_t>(*f.shape, first, last, add_square, finish_square);
  });
}

// From the average's blur along the row to the mean, and to the blur along the row of
// (1/M) sum_m v_m^2 = (1/M) sum_m (x_m - a)^2 + (a - mean)^2.
template <typename scalar_t>
static void subtract_mean(const ContrastForward<scalar_t>& f, accumulate_t<scalar_t>* line,
                          int64_t y) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = f.shape->row();
  acc_t* middle = line + f.horizontal.radius * f.shape->lanes;
  acc_t *average = f.work + y * row, *mean = f.mean + y * row;
  blur_columns<true>(f.deviation, middle, f.vertical, row, y);
  for (int64_t i = 0; i < row; ++i) {
    const acc_t apart = average[i] - middle[i], squares = mean[i] + apart * apart;
    mean[i] = middle[i];
    middle[i] = squares;
  }
  blur_line<false>(line, average, f.horizontal, f.shape->lanes);
}

// deviation = the square root of the squares, which are blurred along rows, blurred along columns.
template <typename scalar_t>
static void deviate(const ContrastForward<scalar_t>& f, const accumulate_t<scalar_t>* squares,
                    int64_t rows, int64_t y) {
  const int64_t row = f.shape->row(), lanes = f.shape->lanes;
  auto* s = f.deviation + y * row;
  blur_columns<false>(squares, rows, f.vertical, row, y, [&](int64_t i, auto part, auto square) {
    store_part(sqrt_of(square), s + i, part);
  });
  sum_row(s, f.row_sums + y * lanes, f.shape->width, lanes);
}

// Mean and deviation of one map alone, which is its own average: each step a window behind the one
// before, so that what lies between them stays near. `rings`: sweep_room().
template <typename scalar_t>
static void sweep(const ContrastForward<scalar_t>& f, accumulate_t<scalar_t>* line,
                  accumulate_t<scalar_t>* rings, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = f.shape->row(), lanes = f.shape->lanes, height = f.shape->height;
  const int64_t radius = f.vertical.radius, rows = ring_rows(f.vertical);
  acc_t* middle = line + f.horizontal.radius * lanes;
  acc_t *half_mean = rings, *half_squares = half_mean + rows * row;
  acc_t* elsewhere = half_squares + rows * row;  // the mean of a row that is not of this part
  int64_t taken = max_of(0, begin - 2 * radius), squared = max_of(0, begin - radius);
  for (int64_t y = begin; y < end; ++y) {
    for (; squared < min_of(height, y + radius + 1); ++squared) {
      for (; taken < min_of(height, squared + radius + 1); ++taken) {
        const scalar_t* x = f.input + taken * row;
        for_parts<acc_t>(0, row, [&](int64_t i, auto part) {
          __builtin_prefetch(x + row + i);  // the memory has nothing else to do until then
          store_part(load_part(x + i, part), middle + i, part);
        });
        blur_line<true>(line, half_mean + taken % rows * row, f.horizontal, lanes);
      }
      const scalar_t* x = f.input + squared * row;
      acc_t* mean = begin <= squared && squared < end ? f.mean + squared * row : elsewhere;
      blur_columns<true>(half_mean, rows, f.vertical, row, squared,
                         [&](int64_t i, auto part, auto sum) {
                           store_part(sum, mean + i, part);
                           const auto v = load_part(x + i, part) - sum;
                           store_part(v * v, middle + i, part);
                         });
      blur_line<false>(line, half_squares + squared % rows * row, f.horizontal, lanes);
    }
    deviate(f, half_squares, rows, y);
  }
}

// output = v / d, of one map alone.
template <typename scalar_t>
static void divide_map(const ContrastForward<scalar_t>& f, int64_t begin, int64_t end) {
  for_lanes<accumulate_t<scalar_t>>(*f.shape, begin, end, [&](int64_t i, int64_t lane, auto part) {
    const auto s = load_part(f.deviation + i, part);
    const auto floor = load_part(f.floor + lane, part);
    const auto v = load_part(f.input + i, part) - load_part(f.mean + i, part);
    store_result_part(v / divisor<decltype(s + s)>(s, floor), f.output + i, part,
                      is_large_result(f.output_bytes));
  });
  if (is_large_result(f.output_bytes)) finish_stores_past_caches();
}

// work = 1 / d; output = v / d.
template <typename scalar_t>
static void divide(const ContrastForward<scalar_t>& f, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  for_parts<acc_t>(begin, end, [&](int64_t i, auto part) {
    const auto s = load_part(f.deviation + i, part);
    const auto floor = load_part(f.floor + i % f.shape->lanes, part);
    store_part(acc_t(1) / divisor<decltype(s + s)>(s, floor), f.work + i, part);
  });
  for_elements<acc_t>(*f.shape, begin, end, [&](auto at) {
    const auto v = at.element(f.input) - at.statistic(f.mean);
    at.put_element(v * at.statistic(f.work), f.output, is_large_result(f.output_bytes));
  });
  if (is_large_result(f.output_bytes)) finish_stores_past_caches();
}

template <typename scalar_t>
void local_contrast_norm_forward(ContrastForwardStep step, const ContrastForward<scalar_t>& f,
                                 accumulate_t<scalar_t>* line, int64_t begin, int64_t end) {
  const int64_t row = f.shape->row(), lanes = f.shape->lanes;
  switch (step) {
    case ContrastForwardStep::sweep:
      sweep(f, line, line + padded_row(*f.shape, f.horizontal), begin, end);
      break;
    case ContrastForwardStep::average_maps:  // the deviation's room holds the half-blurred mean
      average_maps(f, begin * row, end * row);
      for (int64_t y = begin; y < end; ++y) {
        blur_row<true>(f.work + y * row, f.deviation + y * row, line, f.horizontal, lanes);
      }
      break;
    case ContrastForwardStep::subtract_mean:
      for (int64_t y = begin; y < end; ++y) subtract_mean(f, line, y);
      break;
    case ContrastForwardStep::deviate:
      for (int64_t y = begin; y < end; ++y) deviate(f, f.work, f.vertical.size, y);
      break;
    case ContrastForwardStep::sum_rows:
      for (int64_t y = begin; y < end; ++y) {
        sum_row(f.deviation + y * row, f.row_sums + y * lanes, f.shape->width, lanes);
      }
      break;
    case ContrastForwardStep::divide:
      if (f.shape->maps == 1) {
        divide_map(f, begin * row, end * row);
      } else {
        divide(f, begin * row, end * row);
      }
  }
}

// ---- Backward, one map alone ----

// row_sums = -D, summed over the positions of a row where s <= floor, so that d is the floor.
template <typename scalar_t>
static void sum_floor(const ContrastBackward<scalar_t>& b, accumulate_t<scalar_t>* line,
                      int64_t y) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = b.shape->row(), lanes = b.shape->lanes;
  for_lanes<acc_t>(*b.shape, y * row, (y + 1) * row, [&](int64_t i, int64_t lane, auto part) {
    const auto s = load_part(b.deviation + i, part), floor = load_part(b.floor + lane, part);
    const auto v = load_part(b.input + i, part) - load_part(b.mean + i, part);
    __builtin_prefetch(b.grad_output + i + row);
    const auto product = load_part(b.grad_output + i, part) * v;
    store_part(s > floor ? decltype(s + s){} : product, line + i - y * row, part);
  });
  acc_t* sums = b.row_sums + y * lanes;
  sum_row(line, sums, b.shape->width, lanes);
  for (int64_t l = 0; l < lanes; ++l) sums[l] = -sums[l] * b.inverse_floor[l] * b.inverse_floor[l];
}

// From the gradient of y to that of x in one sweep, each step a window behind the one before:
// t / s blurred along rows; h, from that blurred along columns; h blurred along rows, then along
// columns. `rings`: sweep_back_room().
template <typename scalar_t>
static void sweep_back(const ContrastBackward<scalar_t>& b, accumulate_t<scalar_t>* line,
                       accumulate_t<scalar_t>* rings, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = b.shape->row(), lanes = b.shape->lanes, height = b.shape->height;
  const int64_t radius = b.vertical.radius, rows = ring_rows(b.vertical);
  acc_t* middle = line + b.horizontal.radius * lanes;
  acc_t *half_ratios = rings, *half_h = half_ratios + rows * row;
  acc_t* h_rows = half_h + rows * row;  // g / d, then h
  int64_t taken = max_of(0, begin - 2 * radius), joined = max_of(0, begin - radius);
  for (int64_t y = begin; y < end; ++y) {
    for (; joined < min_of(height, y + radius + 1); ++joined) {
      for (; taken < min_of(height, joined + radius + 1); ++taken) {
        acc_t* direct = h_rows + taken % rows * row;
        const int64_t first = taken * row;
        for_lanes<acc_t>(*b.shape, first, first + row, [&](int64_t i, int64_t lane, auto part) {
          const auto s = load_part(b.deviation + i, part), floor = load_part(b.floor + lane, part);
          const auto v = load_part(b.input + i, part) - load_part(b.mean + i, part);
          const auto g = load_part(b.grad_output + i, part);
          const auto zero = decltype(s + s){}, inverse = acc_t(1) / s;
          const auto change = s > floor ? g * v * inverse * inverse : zero;
          const auto t = load_part(b.floor_share + lane, part) - change;
          store_part(s > zero ? t * inverse : zero, middle + i - first, part);
          const auto inverse_floor = load_part(b.inverse_floor + lane, part);
          store_part(g * ((s > floor) | (s != s) ? inverse : inverse_floor), direct + i - first,
                     part);
        });
        blur_line<false>(line, half_ratios + taken % rows * row, b.horizontal, lanes);
      }
      const int64_t first = joined * row;
      acc_t* h_row = h_rows + joined % rows * row;
      blur_columns<false>(
          half_ratios, rows, b.vertical, row, joined, [&](int64_t i, auto part, auto r) {
            const auto v =
                load_part(b.input + first + i, part) - load_part(b.mean + first + i, part);
            store_part(load_part(h_row + i, part) + v * r, middle + i, part);
          });
      memcpy(h_row, middle, row * sizeof(acc_t));
      blur_line<false>(line, half_h + joined % rows * row, b.horizontal, lanes);
    }
    const acc_t* h_row = h_rows + y % rows * row;
    blur_columns<false>(half_h, rows, b.vertical, row, y, [&](int64_t i, auto part, auto sum) {
      store_result_part(load_part(h_row + i, part) - sum, b.grad_input + y * row + i, part,
                        is_large_result(b.output_bytes));
    });
  }
  if (is_large_result(b.output_bytes)) finish_stores_past_caches();
}

// ---- Backward, several maps ----

// inverse = 1 / d; direct = sum_m g_m / d; spread = sum_m v_m; change = -D.
template <typename scalar_t>
static void gather(const ContrastBackward<scalar_t>& b, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const auto add = [&](auto at, auto* sums) {
    const auto g = at.element(b.grad_output);
    const auto v = at.element(b.input) - at.statistic(b.mean);
    sums[0] += g;
    sums[1] += v;
    sums[2] += g * v;
  };
  const auto finish = [&](auto at, auto* sums) {
    const auto s = at.statistic(b.deviation);
    const auto floor = at.of_lane(b.floor, b.shape->lanes);
    const auto inverse = acc_t(1) / divisor<decltype(s + s)>(s, floor);
    at.put_statistic(inverse, b.inverse);
    at.put_statistic(sums[0] * inverse, b.direct);
    at.put_statistic(sums[1], b.spread);
    at.put_statistic(-sums[2] * inverse * inverse, b.change);
  };
  sum_over_maps<3, acc_t>(*b.shape, begin, end, add, finish);
}

// line = the part of the row's `change` that reaches the floor.
template <typename scalar_t>
static void take_floor_part(const ContrastBackward<scalar_t>& b, accumulate_t<scalar_t>* line,
                            int64_t first) {
  using acc_t = accumulate_t<scalar_t>;
  for_parts<acc_t>(0, b.shape->row(), [&](int64_t i, auto part) {
    const auto s = load_part(b.deviation + first + i, part);
    const auto change = load_part(b.change + first + i, part);
    const auto floor = load_part(b.floor + i % b.shape->lanes, part);
    store_part(s > floor ? decltype(s + s){} : change, line + i, part);
  });
}

// line = (1/M) t / s.
template <typename scalar_t>
static void take_deviation_part(const ContrastBackward<scalar_t>& b, accumulate_t<scalar_t>* line,
                                int64_t first) {
  using acc_t = accumulate_t<scalar_t>;
  const acc_t share = acc_t(1) / acc_t(b.shape->maps);
  for_parts<acc_t>(0, b.shape->row(), [&](int64_t i, auto part) {
    const auto s = load_part(b.deviation + first + i, part);
    const auto change = load_part(b.change + first + i, part);
    const int64_t lane = i % b.shape->lanes;
    const auto through_floor = load_part(b.floor_share + lane, part);
    const auto zero = decltype(s + s){};
    const auto t = through_floor + (s > load_part(b.floor + lane, part) ? change : zero);
    store_part(s > zero ? share * t / s : zero, line + i, part);
  });
}

// spread = r; direct = (1/M) sum_m h_m, blurred along the row.
template <typename scalar_t>
static void take_mean_part(const ContrastBackward<scalar_t>& b, accumulate_t<scalar_t>* line,
                           int64_t y) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = b.shape->row(), lanes = b.shape->lanes;
  const acc_t share = acc_t(1) / acc_t(b.shape->maps);
  acc_t *direct = b.direct + y * row, *spread = b.spread + y * row;
  acc_t* sum = line + b.horizontal.radius * lanes;
  blur_columns<false>(b.change, sum, b.vertical, row, y);
  for (int64_t i = 0; i < row; ++i) {
    const acc_t r = sum[i];
    sum[i] = share * (direct[i] + r * spread[i]);
    spread[i] = r;
  }
  blur_line<false>(line, direct, b.horizontal, lanes);
}

template <typename scalar_t>
void local_contrast_norm_backward(ContrastBackwardStep step, const ContrastBackward<scalar_t>& b,
                                  accumulate_t<scalar_t>* line, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t row = b.shape->row(), lanes = b.shape->lanes;
  acc_t* middle = line + b.horizontal.radius * lanes;
  switch (step) {
    case ContrastBackwardStep::sum_floor:
      for (int64_t y = begin; y < end; ++y) sum_floor(b, middle, y);
      break;
    case ContrastBackwardStep::sweep:
      sweep_back(b, line, line + padded_row(*b.shape, b.horizontal), begin, end);
      break;
    case ContrastBackwardStep::gather:
      for_rows_in_turn(*b.shape, begin, end, [&](int64_t first, int64_t last) {
        gather(b, first * row, last * row);
        for (int64_t y = first; y < last; ++y) {
          take_floor_part(b, middle, y * row);
          sum_row(middle, b.row_sums + y * lanes, b.shape->width, lanes);
        }
      });
      break;
    case ContrastBackwardStep::through_deviation:
      for (int64_t y = begin; y < end; ++y) {
        take_deviation_part(b, middle, y * row);
        blur_line<false>(line, b.change + y * row, b.horizontal, lanes);
      }
      break;
    case ContrastBackwardStep::through_mean:
      for (int64_t y = begin; y < end; ++y) take_mean_part(b, line, y);
      break;
    case ContrastBackwardStep::add_up:  // `change` holds what goes through the mean
      for_rows_in_turn(*b.shape, begin, end, [&](int64_t first, int64_t last) {
        for (int64_t y = first; y < last; ++y) {
          blur_columns<false>(b.direct, b.change + y * row, b.vertical, row, y);
        }
        for_elements<acc_t>(*b.shape, first * row, last * row, [&](auto at) {
          const auto v = at.element(b.input) - at.statistic(b.mean);
          const auto h =
              at.element(b.grad_output) * at.statistic(b.inverse) + v * at.statistic(b.spread);
          at.put_element(h - at.statistic(b.change), b.grad_input, is_large_result(b.output_bytes));
        });
      });
      if (is_large_result(b.output_bytes)) finish_stores_past_caches();
  }
}

#define INSTANTIATE(scalar_t)                                                                      \
  template void local_contrast_norm_forward(ContrastForwardStep, const ContrastForward<scalar_t>&, \
                                            accumulate_t<scalar_t>*, int64_t, int64_t);            \
  template void local_contrast_norm_backward(ContrastBackwardStep,                                 \
                                             const ContrastBackward<scalar_t>&,                    \
                                             accumulate_t<scalar_t>*, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
