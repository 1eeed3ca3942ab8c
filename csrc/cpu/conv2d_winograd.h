// When convolutions take Winograd's way (csrc/cpu/winograd.h), and how its steps are run.
#pragma once

#include <atomic>
#include <cstring>
#include <optional>

#include "core/conv2d.h"
#include "cpu/conv2d_product.h"
#include "cpu/winograd.h"

namespace fastconv {

inline Folding folding_of(const Tensor& image, int64_t channels) {
  return {const_cast<void*>(image.const_data_ptr()),
          {image.stride(0), image.stride(1), image.stride(2), image.stride(3)},
          image.size(2),
          image.size(3),
          channels,
          {1, 1},
          {0, 0}};
}

inline int64_t bytes_of(const Tensor& t) { return t.numel() * int64_t(t.element_size()); }

inline Filter filter_of(const Tensor& weight, const Conv2d& p, bool turned) {
  return {const_cast<void*>(weight.const_data_ptr()),
          {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)},
          p.out_channels,
          p.in_channels,
          {p.h.kernel, p.w.kernel},
          {p.h.stride, p.w.stride},
          turned};
}

// With larger steps most pixels lie between the windows, and a copy of the padded image could be
// far larger than what the windows see.
inline bool steps_are_small(const Conv2d& p) {
  constexpr int64_t kMost = 16;
  return p.h.stride <= kMost && p.w.stride <= kMost;
}

// Whether it costs less than the plain products. The unit is a step of a multiplication's vector;
// what transforming and packing cost in it was measured on AlexNet's and ZFNet's layers.
inline bool winograd_pays(const Conv2d& p, const Filter& f, bool transformed = false) {
  if (p.h.dilation != 1 || p.w.dilation != 1 || !steps_are_small(p)) return false;
  constexpr double kPlain = 1.35;  // of a multiplication, packing and all
  constexpr int64_t kInput = 5, kOutput = 3;
  const int64_t filter = transformed ? 0 : 100;
  const bool turned = f.turned;
  const int64_t sum =
      f.blocks(0) * f.blocks(1) * round_up(turned ? f.maps : f.folded_channels(), kWinogradChunk);
  const int64_t columns = round_up(turned ? f.folded_channels() : f.maps, kWinogradPanel);
  const int64_t rows = turned ? ceil_div(p.h.input, p.h.stride) : p.h.output;
  const int64_t cols = turned ? ceil_div(p.w.input, p.w.stride) : p.w.output;
  const int64_t tiles = p.batch * ceil_div(rows, 2) * ceil_div(cols, 2);
  const double plain = kPlain * double(p.batch * p.h.output * p.w.output) *
                       double(p.h.kernel * p.w.kernel * p.in_channels * p.out_channels) / 16;
  return double(sum * columns) * double(tiles + filter) +
             double(tiles) * double(kInput * sum + kOutput * columns) <
         plain;
}

// Scratch memory comes from torch: it is what the caller's memory limits and profilers see.
inline Tensor scratch(const Tensor& like, int64_t size) {
  const ScalarType type =
      like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return new_tensor(like, {size}, type, MemoryFormat::Contiguous);
}

// Whether the kernels can read an image of channels padded to chunks where it lies.
inline bool lies_in_place(const FoldedImage& image, const Tensor& source) {
  const Folding& f = image.of;
  const ScalarType type = source.scalar_type();
  return (type == ScalarType::Float || type == ScalarType::Double) && f.step[0] == 1 &&
         f.step[1] == 1 && f.stride[1] == 1 && f.channels == image.depth;
}

// A batch whose images are folded a few at a time: copies of a whole batch would be memory that is
// fresh from the system at every call, and would have left the caches when they are read.
class ImagesInTurn {
 public:
  // How many images at a time, where each is `elements` of scratch memory.
  static int64_t together(int64_t batch, int64_t elements, int64_t threads = 1) {
    constexpr int64_t kElements = 1024 * 1024;
    return max_of(1, min_of(batch, kElements * threads / max_of(1, elements)));
  }

  // `image` holds the whole batch, and becomes what the kernels see. `beyond`: elements behind the
  // images that a kernel may read, though not use. `in_place`: the images are not copied.
  ImagesInTurn(FoldedImage& image, const Tensor& source, int64_t together, int64_t beyond = 0,
               bool in_place = false)
      : image_(image), whole_(image.of), batch_(image.batch), together_(together), source_(source) {
    image.batch = together;
    if (in_place) return;
    memory_ = scratch(source, image.size() + beyond);
    image.memory = memory_->mutable_data_ptr();
  }

  // Makes `image` the next ones from `first` on.
  void fold(int64_t first) {
    image_.of.image = at(whole_, first);
    image_.batch = min_of(together_, batch_ - first);
    if (!memory_) return;
    const int64_t row = image_.cols * image_.groups * image_.depth;
    FASTCONV_DISPATCH_FLOATING(
        source_.scalar_type(),
        parallel_over(image_.batch * image_.rows, row, [&](int64_t begin, int64_t end) {
          FASTCONV_ISA_CALL(winograd_fold<scalar_t>(image_, begin, end));
        }))
  }

  // Image `n` of another tensor of the source's type.
  void* at(const Folding& images, int64_t n) const {
    return static_cast<char*>(images.image) +
           n * images.stride[0] * int64_t(source_.element_size());
  }

 private:
  FoldedImage& image_;
  const Folding whole_;
  const int64_t batch_, together_;
  const Tensor source_;
  std::optional<Tensor> memory_;
};

// What the busiest thread has to do, in multiplications for each term of the sum.
inline int64_t most_work(const Winograd& p, int64_t threads) {
  constexpr int64_t kRows = 12;       // a multiple of every kernel's rows
  constexpr int64_t kFilterRows = 4;  // reading a unit's filters costs as much as so many tiles
  constexpr int64_t kMany = 32;  // units of a thread, of which one more or less does not matter
  const int64_t share = ceil_div(p.units(), threads);
  if (share > kMany) {
    return share * (p.together + kFilterRows) * p.column_blocks() * kWinogradColumns /
           p.column_parts;
  }
  int64_t most = 0, work = 0;
  for (int64_t unit = 0; unit < p.units(); ++unit) {
    if (unit % share == 0) work = 0;
    const int64_t part = p.column_part(unit);
    const int64_t tiles = min_of(p.together, p.all_tiles() - p.first_tile(unit));
    work += (round_up(tiles, kRows) + kFilterRows) *
            (p.first_block(part + 1) - p.first_block(part)) * kWinogradColumns;
    most = max_of(most, work);
  }
  return most;
}

// Chooses the units of work: tiles whose transformed inputs the second cache holds beside some
// products, and columns in parts where there are too few tiles for the threads.
inline void choose_units(Winograd& p) {
  constexpr int64_t kRows = 12, kMost = 16, kBytes = 600 * 1024;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t fit = kBytes / (kWinogradElements * int64_t(sizeof(float)) * p.sum() * kRows);
  int64_t least = -1;
  Winograd candidate = p;
  for (int64_t rows = 1; rows <= max_of(1, min_of(fit, kMost)); ++rows) {
    candidate.together = rows * kRows;
    for (int64_t parts = 1; parts <= p.column_blocks(); ++parts) {
      candidate.column_parts = parts;
      const int64_t work = most_work(candidate, threads);
      if (least < 0 || work < least || (work == least && parts == 1)) {
        least = work;
        p.together = candidate.together;
        p.column_parts = parts;
      }
      if (candidate.units() >= 4 * threads) break;
    }
  }
}

// The filters' transform. The problem's filter, columns, groups and depth are set.
inline Tensor winograd_filters_of(Winograd& p, const Tensor& weight, bool zeros = false) {
  Tensor transformed = scratch(weight, p.input.groups * kWinogradElements * p.transformed_size());
  if (zeros) torch::stable::zero_(transformed);  // or what lies between the filters is not written
  p.transformed = transformed.mutable_data_ptr();
  FASTCONV_DISPATCH_FLOATING(
      weight.scalar_type(),
      parallel_over(p.filter_units(), kWinogradChunk * kWinogradPanel * kWinogradElements,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(winograd_filters<scalar_t>(p, begin, end));
                    }))
  return transformed;
}

// Runs the convolution; false where a result is not finite and the output is to be made anew.
// `filters`, if any, are the weight's transform.
inline bool run_winograd(Winograd& p, const Tensor& input, const Tensor& weight,
                         const std::optional<Tensor>& filters = std::nullopt) {
  const int64_t batch = p.input.batch, threads = torch::stable::get_num_threads();
  p.input.pad_depth(kWinogradChunk);
  const bool in_place = lies_in_place(p.input, input);
  const int64_t images =
      ImagesInTurn::together(batch, in_place ? 0 : p.input.image_size(), threads);
  ImagesInTurn inputs(p.input, input, images, 0, in_place);
  choose_units(p);
  const int64_t columns = p.panels() * kWinogradPanel / p.column_parts;
  const Tensor transformed = filters ? *filters : winograd_filters_of(p, weight);
  p.transformed = transformed.mutable_data_ptr();
  std::atomic<bool> finite{true};
  FASTCONV_DISPATCH_FLOATING(
      input.scalar_type(), const Folding output = p.output;
      for (int64_t n = 0; n < batch; n += images) {
        inputs.fold(n);
        p.output.image = inputs.at(output, n);
        parallel_over(p.units(), p.together * p.sum() * columns, [&](int64_t begin, int64_t end) {
          bool all = true;
          FASTCONV_ISA_CALL(winograd_outputs<scalar_t>(p, begin, end, &all));
          if (!all) finite = false;
        });
      })
  return finite;
}

inline bool winograd_forward(const Conv2d& p, const Tensor& input, const Tensor& weight,
                             const std::optional<Tensor>& bias, bool relu, Tensor& output,
                             const std::optional<Tensor>& filters = std::nullopt) {
  Winograd w{};
  w.filter = filter_of(weight, p, false);
  if (!winograd_pays(p, w.filter, filters.has_value())) return false;
  w.tiles[0] = ceil_div(p.h.output, 2);
  w.tiles[1] = ceil_div(p.w.output, 2);
  w.columns = p.out_channels;
  w.input = {folding_of(input, p.in_channels),
             p.batch,
             p.groups,
             2 * w.tiles[0] + 2 + kWinogradTaps * (w.filter.blocks(0) - 1),
             2 * w.tiles[1] + 2 + kWinogradTaps * (w.filter.blocks(1) - 1),
             0,
             nullptr};
  Folding& f = w.input.of;
  f.step[0] = p.h.stride;
  f.step[1] = p.w.stride;
  f.origin[0] = -p.h.padding;
  f.origin[1] = -p.w.padding;
  w.output = folding_of(output, p.out_channels);
  w.output_bytes = bytes_of(output);
  w.bias = bias ? bias->const_data_ptr() : nullptr;
  w.relu = relu;
  return run_winograd(w, input, weight, filters);
}

// The weight's transform for winograd_forward(), whatever the image.
inline Tensor winograd_filters_of(const Conv2d& p, const Tensor& weight) {
  Winograd w{};
  w.filter = filter_of(weight, p, false);
  w.columns = p.out_channels;
  w.input.groups = p.groups;
  w.input.of.channels = p.in_channels;
  w.input.of.step[0] = p.h.stride;
  w.input.of.step[1] = p.w.stride;
  w.input.pad_depth(kWinogradChunk);
  return winograd_filters_of(w, weight, true);
}

inline void check_conv2d_filters(const char* op, const Tensor& filters, const Tensor& weight,
                                 const Conv2d& p) {
  const int64_t terms = round_up(p.h.stride * p.w.stride * p.in_channels, kWinogradChunk);
  const Filter f = filter_of(weight, p, false);
  const int64_t columns = round_up(p.out_channels, kWinogradPanel);
  const int64_t size =
      p.groups * kWinogradElements * (columns * f.blocks(0) * f.blocks(1) * terms + kWinogradPad);
  const bool is_double = weight.scalar_type() == ScalarType::Double;
  FASTCONV_CHECK(op,
                 filters.dim() == 1 && filters.size(0) == size && filters.stride(0) == 1 &&
                     filters.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
                 "filters must be what conv2d_filters makes of the weight, ", size,
                 " elements (got shape ", shape_text(filters), ")");
  check_same_device(op, "filters", filters, "weight", weight);
}

inline bool winograd_input_grad(const Conv2d& p, const Tensor& grad_output, const Tensor& weight,
                                Tensor& grad_input) {
  Winograd w{};
  w.filter = filter_of(weight, p, true);
  if (!winograd_pays(p, w.filter)) return false;
  const Window* axes[2] = {&p.h, &p.w};
  w.columns = w.filter.folded_channels();
  w.output = folding_of(grad_input, p.in_channels);
  w.output_bytes = bytes_of(grad_input);
  int64_t first[2], size[2];
  for (int i = 0; i < 2; ++i) {
    const Window& a = *axes[i];
    first[i] = a.padding / a.stride;  // row of the folded, padded input that holds pixel 0
    const int64_t rows = (a.padding + a.input - 1) / a.stride + 1 - first[i];
    w.tiles[i] = ceil_div(rows, 2);
    size[i] = 2 * w.tiles[i] + 2 + kWinogradTaps * (w.filter.blocks(i) - 1);
    w.output.step[i] = a.stride;
    w.output.origin[i] = first[i] * a.stride - a.padding;
  }
  w.input = {
      folding_of(grad_output, p.out_channels), p.batch, p.groups, size[0], size[1], 0, nullptr};
  for (int i = 0; i < 2; ++i) w.input.of.origin[i] = first[i] - (w.filter.folded_taps(i) - 1);
  return run_winograd(w, grad_output, weight);
}

inline bool winograd_weight_grad(const Conv2d& p, const Tensor& grad_output, const Tensor& input,
                                 Tensor& grad_weight) {
  WinogradGradient w{};
  w.filter = filter_of(grad_weight, p, false);
  if (!winograd_pays(p, w.filter)) return false;
  w.tiles[0] = ceil_div(p.h.output, 2);
  w.tiles[1] = ceil_div(p.w.output, 2);
  w.input = {folding_of(input, p.in_channels),
             p.batch,
             p.groups,
             2 * w.tiles[0] + 2 + kWinogradTaps * (w.filter.blocks(0) - 1),
             2 * w.tiles[1] + 2 + kWinogradTaps * (w.filter.blocks(1) - 1),
             0,
             nullptr};
  Folding& f = w.input.of;
  f.step[0] = p.h.stride;
  f.step[1] = p.w.stride;
  f.origin[0] = -p.h.padding;
  f.origin[1] = -p.w.padding;
  w.grad_output = {folding_of(grad_output, p.out_channels),
                   p.batch,
                   p.groups,
                   2 * w.tiles[0],
                   2 * w.tiles[1],
                   0,
                   nullptr};
  w.input.pad_depth(kWinogradChunk);
  w.grad_output.pad_depth(kWinogradChunk);
  // Whatever the threads: the order of the sums follows from it.
  const bool in_place = lies_in_place(w.input, input),
             grads_in_place = lies_in_place(w.grad_output, grad_output);
  const int64_t images =
      ImagesInTurn::together(p.batch, (in_place ? 0 : w.input.image_size()) +
                                          (grads_in_place ? 0 : w.grad_output.image_size()));
  ImagesInTurn inputs(w.input, input, images, 0, in_place);
  ImagesInTurn outputs(w.grad_output, grad_output, images, 0, grads_in_place);

  const int64_t sums_size = p.groups * kWinogradElements * w.sums_size();
  const Tensor sums = scratch(input, sums_size);
  w.sums = sums.mutable_data_ptr();
  std::atomic<bool> finite{true};
  FASTCONV_DISPATCH_FLOATING(
      input.scalar_type(), using acc_t = accumulate_t<scalar_t>;
      memset(w.sums, 0, sums_size * sizeof(acc_t)); for (int64_t n = 0; n < p.batch; n += images) {
        inputs.fold(n);
        outputs.fold(n);
        parallel_over(w.units(), w.all_tiles() * kWinogradPanel * p.out_channels,
                      [&](int64_t begin, int64_t end) {
                        FASTCONV_ISA_CALL(winograd_products<scalar_t>(w, begin, end));
                      });
      } parallel_over(p.groups * p.out_channels, w.taps() * kWinogradElements,
                      [&](int64_t begin, int64_t end) {
                        bool all = true;
                        FASTCONV_ISA_CALL(winograd_weights<scalar_t>(w, begin, end, &all));
                        if (!all) finite = false;
                      });)
  return finite;
}

}  // namespace fastconv
