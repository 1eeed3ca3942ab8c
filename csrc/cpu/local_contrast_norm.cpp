#include "cpu/local_contrast_norm.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <new>
#include <tuple>

#include "cpu/dispatch.h"
#include "glue/contrast_norm.h"

namespace fastconv {

// The blur along columns and along rows, or its adjoint.
template <typename acc_t>
struct Blur {
  std::vector<acc_t> vertical, horizontal;

  Blur(const ContrastProblem& p, bool transposed)
      : vertical(gaussian_band<acc_t>(p.shape.height, p.radius_h, 1, p.sigma, transposed)),
        horizontal(
            gaussian_band<acc_t>(p.shape.width, p.radius_w, p.shape.lanes, p.sigma, transposed)) {}

  template <class Pass>
  void hand_to(Pass& pass, const ContrastProblem& p) const {
    pass.shape = &p.shape;
    pass.vertical = band_of(p.shape.height, p.radius_h, vertical.data());
    pass.horizontal = band_of(p.shape.row(), p.radius_w, horizontal.data());
  }
};

// Ranges of images side by side where there are enough of them to keep every thread busy; else all
// in one, so that the rows of each image can be shared out.
template <class F>
static void for_images(const ContrastProblem& p, const F& body) {
  if (p.images < int64_t(torch::stable::get_num_threads())) return body(0, p.images);
  parallel_over(p.images, p.shape.plane() * p.shape.maps, body);
}

// The room that one thread needs, given out in pieces, which begin at cache lines: a vector that
// lies across two of them takes twice as long to load.
template <typename acc_t>
class Scratch {
 public:
  explicit Scratch(int64_t elements)
      : begin_(static_cast<acc_t*>(
            ::operator new((elements + kPieces * kLine) * sizeof(acc_t), kAlignment))),
        next_(begin_) {}
  ~Scratch() { ::operator delete(begin_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  acc_t* take(int64_t elements) {
    acc_t* piece = next_;
    next_ += round_up(elements, kLine);
    return piece;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr int64_t kLine = 64 / sizeof(acc_t), kPieces = 16;
  acc_t *begin_, *next_;
};

// body(line, begin, end) over the rows of one image; serial where for_images is parallel. `line`
// has room for a padded row, all 0, and `more` elements.
template <typename acc_t, class F>
static void for_rows(const ContrastProblem& p, const Band<acc_t>& horizontal, int64_t more,
                     const F& body) {
  const int64_t padded = padded_row(p.shape, horizontal);
  parallel_over(p.shape.height, p.shape.row() * p.shape.maps, [&](int64_t begin, int64_t end) {
    Scratch<acc_t> scratch(padded + more);
    acc_t* line = scratch.take(padded);
    std::fill_n(line, padded, acc_t(0));
    body(line, begin, end);
  });
}

template <typename scalar_t>
static void run(const ContrastProblem& p, const ContrastForward<scalar_t>& f,
                std::initializer_list<ContrastForwardStep> steps) {
  using acc_t = accumulate_t<scalar_t>;
  for (ContrastForwardStep step : steps) {
    const int64_t more = step == ContrastForwardStep::sweep ? sweep_room(p.shape, f.vertical) : 0;
    for_rows(p, f.horizontal, more, [&](acc_t* line, int64_t begin, int64_t end) {
      FASTCONV_ISA_CALL(local_contrast_norm_forward(step, f, line, begin, end));
    });
  }
}

// The statistics of an image.
template <typename scalar_t>
static void find_statistics(const ContrastProblem& p, const ContrastForward<scalar_t>& f) {
  using Step = ContrastForwardStep;
  if (p.shape.maps == 1) {
    run(p, f, {Step::sweep});
  } else {
    run(p, f, {Step::average_maps, Step::subtract_mean, Step::deviate});
  }
}

template <typename scalar_t>
static void run(const ContrastProblem& p, const ContrastBackward<scalar_t>& b,
                std::initializer_list<ContrastBackwardStep> steps) {
  using acc_t = accumulate_t<scalar_t>;
  for (ContrastBackwardStep step : steps) {
    const bool sweeps = step == ContrastBackwardStep::sweep;
    const int64_t more = sweeps ? sweep_back_room(p.shape, b.vertical) : 0;
    for_rows(p, b.horizontal, more, [&](acc_t* line, int64_t begin, int64_t end) {
      FASTCONV_ISA_CALL(local_contrast_norm_backward(step, b, line, begin, end));
    });
  }
}

// The mean over the image of each lane, from the sums of its rows. In double, because gradients
// take one way below the mean and another above.
template <typename acc_t>
static acc_t lane_mean(const ContrastShape& s, const acc_t* row_sums, int64_t lane) {
  double sum = 0;
  for (int64_t y = 0; y < s.height; ++y) sum += double(row_sums[y * s.lanes + lane]);
  return acc_t(sum / double(s.height * s.width));
}

template <typename acc_t>
static void repeat_lanes(const ContrastShape& s, acc_t* values) {
  for (int64_t l = s.lanes; l < s.lanes + kSlack; ++l) values[l] = values[l - s.lanes];
}

// floor = max(eps, mean of the deviation), or eps.
template <typename acc_t>
static void find_floor(const ContrastProblem& p, const acc_t* row_sums, acc_t* floor) {
  const acc_t least = least_divisor<acc_t>(p);
  for (int64_t l = 0; l < p.shape.lanes; ++l) {
    const acc_t mean = p.mean_divisor ? lane_mean(p.shape, row_sums, l) : least;
    floor[l] = mean <= least ? least : mean;  // a NaN stays
  }
  repeat_lanes(p.shape, floor);
}

// floor_share = the gradient of each deviation through the floor: 0 where that is eps.
template <typename acc_t>
static void share_floor(const ContrastProblem& p, const acc_t* row_sums, const acc_t* floor,
                        acc_t* floor_share) {
  const acc_t least = least_divisor<acc_t>(p);
  for (int64_t l = 0; l < p.shape.lanes; ++l) {
    floor_share[l] = floor[l] == least ? acc_t(0) : lane_mean(p.shape, row_sums, l);
  }
  repeat_lanes(p.shape, floor_share);
}

template <typename scalar_t>
static void forward_images(const ContrastProblem& p, const Tensor& x, Tensor& output,
                           Tensor& statistics) {
  using acc_t = accumulate_t<scalar_t>;
  const Blur<acc_t> blur(p, false);
  const ContrastShape& shape = p.shape;
  const int64_t plane = shape.plane();
  for_images(p, [&](int64_t begin, int64_t end) {
    Scratch<acc_t> scratch((p.across_maps ? 1 : 3) * plane + shape.height * shape.lanes +
                           shape.lanes + kSlack);
    ContrastForward<scalar_t> f{};
    blur.hand_to(f, p);
    f.output_bytes = output.numel() * int64_t(sizeof(scalar_t));
    f.work = scratch.take(plane);
    f.row_sums = scratch.take(shape.height * shape.lanes);
    f.floor = scratch.take(shape.lanes + kSlack);
    if (!p.across_maps) {
      f.mean = scratch.take(plane);
      f.deviation = scratch.take(plane);
    }
    for (int64_t image = begin; image < end; ++image) {
      f.input = data<scalar_t>(x) + image * plane * shape.maps;
      f.output = mutable_data<scalar_t>(output) + image * plane * shape.maps;
      if (p.across_maps) {
        f.mean = mutable_data<acc_t>(statistics) + 2 * image * plane;
        f.deviation = f.mean + plane;
      }
      find_statistics(p, f);
      find_floor(p, f.row_sums, f.floor);
      run(p, f, {ContrastForwardStep::divide});
    }
  });
}

template <typename scalar_t>
static void backward_images(const ContrastProblem& p, const Tensor& g, const Tensor& x,
                            const Tensor& statistics, Tensor& grad_input) {
  using acc_t = accumulate_t<scalar_t>;
  const Blur<acc_t> blur(p, false), adjoint(p, true);
  const ContrastShape& shape = p.shape;
  const int64_t plane = shape.plane();
  for_images(p, [&](int64_t begin, int64_t end) {
    const bool alone = shape.maps == 1;
    const int64_t planes = (p.across_maps ? 0 : 2) + (alone ? 0 : 4);
    Scratch<acc_t> scratch(planes * plane + shape.height * shape.lanes +
                           3 * (shape.lanes + kSlack));
    ContrastForward<scalar_t> f{};
    blur.hand_to(f, p);
    ContrastBackward<scalar_t> b{};
    adjoint.hand_to(b, p);
    b.output_bytes = grad_input.numel() * int64_t(sizeof(scalar_t));
    if (!alone) {
      b.inverse = scratch.take(plane);
      b.direct = scratch.take(plane);
      b.spread = scratch.take(plane);
      b.change = scratch.take(plane);
    }
    b.row_sums = f.row_sums = scratch.take(shape.height * shape.lanes);
    b.floor = f.floor = scratch.take(shape.lanes + kSlack);
    b.floor_share = scratch.take(shape.lanes + kSlack);
    b.inverse_floor = scratch.take(shape.lanes + kSlack);
    if (!p.across_maps) {
      f.mean = scratch.take(plane);
      f.deviation = scratch.take(plane);
    }
    for (int64_t image = begin; image < end; ++image) {
      const int64_t first = image * plane * shape.maps;
      b.input = f.input = data<scalar_t>(x) + first;
      b.grad_output = data<scalar_t>(g) + first;
      b.grad_input = mutable_data<scalar_t>(grad_input) + first;
      using Back = ContrastBackwardStep;
      if (p.across_maps) {
        f.mean = const_cast<acc_t*>(data<acc_t>(statistics)) + 2 * image * plane;
        f.deviation = f.mean + plane;
        run(p, f, {ContrastForwardStep::sum_rows});
      } else {
        find_statistics(p, f);
      }
      b.mean = f.mean;
      b.deviation = f.deviation;
      find_floor(p, f.row_sums, f.floor);
      std::transform(f.floor, f.floor + shape.lanes + kSlack, b.inverse_floor,
                     [](acc_t floor) { return acc_t(1) / floor; });
      run(p, b, {alone ? Back::sum_floor : Back::gather});
      share_floor(p, b.row_sums, b.floor, b.floor_share);
      if (alone) {
        run(p, b, {Back::sweep});
      } else {
        run(p, b, {Back::through_deviation, Back::through_mean, Back::add_up});
      }
    }
  });
}

static std::tuple<Tensor, Tensor> local_contrast_norm(const Tensor& input, int64_t kernel_size,
                                                      double sigma, bool across_maps,
                                                      bool mean_divisor, double eps) {
  const ContrastProblem p = contrast_problem("local_contrast_norm", input, kernel_size, sigma,
                                             across_maps, mean_divisor, eps);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  Tensor statistics =
      new_tensor(x, statistics_sizes(p, x), statistics_type(x), MemoryFormat::Contiguous);
  FASTCONV_DISPATCH_FLOATING(x.scalar_type(), forward_images<scalar_t>(p, x, output, statistics))
  return {output, statistics};
}

static Tensor local_contrast_norm_backward(const Tensor& grad_output, const Tensor& input,
                                           const Tensor& statistics, int64_t kernel_size,
                                           double sigma, bool across_maps, bool mean_divisor,
                                           double eps) {
  const char* op = "local_contrast_norm_backward";
  const ContrastProblem p =
      contrast_problem(op, input, kernel_size, sigma, across_maps, mean_divisor, eps);
  check_contrast_grad(op, p, grad_output, input, statistics);
  const MemoryFormat format = memory_format_of(input);
  const Tensor g = contiguous_as(grad_output, format), x = contiguous_as(input, format);
  const Tensor saved = contiguous_as(statistics, MemoryFormat::Contiguous);
  Tensor grad_input = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(x.scalar_type(), backward_images<scalar_t>(p, g, x, saved, grad_input))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, local_contrast_norm);
  FASTCONV_IMPL(m, local_contrast_norm_backward);
}

}  // namespace fastconv
