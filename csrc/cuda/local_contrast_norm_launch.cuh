// The steps of local_contrast_norm, one launch after another; local_contrast_norm.cuh has them.
#pragma once

#include "cuda/local_contrast_norm.cuh"
#include "cuda/local_contrast_norm.h"

namespace fastconv {

// The blur's tile; false where none fits into shared memory.
inline bool contrast_tiles_of(const ContrastProblem& p, size_t element_size, Tiles& t) {
  t = {1, tile_axis(p.shape.height, p.radius_h, p.radius_h),
       tile_axis(p.shape.width, p.radius_w, p.radius_w), int(p.shape.lanes), 0};
  t.choose(2048, p.shape.lanes > 1 ? 16 : 32, 8);
  return t.shrink_to_fit([&] {
    const int y = t.rows.reach(), x = t.columns.reach();
    return (t.area(y, x) + t.area(y, 0)) * element_size;
  });
}

inline bool contrast_fits(const ContrastProblem& p, size_t element_size) {
  Tiles tiles;
  return contrast_tiles_of(p, element_size, tiles);
}

// Rooms of a statistic each that a call needs beside its tensors.
inline int64_t contrast_rooms(const ContrastProblem& p, bool backward, size_t element_size) {
  const int saved_nowhere = p.across_maps ? 0 : 2;         // mean and deviation
  const int far = contrast_fits(p, element_size) ? 0 : 1;  // half a blur
  return saved_nowhere + far + (backward ? 3 : p.shape.maps > 1 ? 2 : 0);
}
inline int64_t contrast_table(const ContrastProblem& p) {
  return max_of(p.radius_h, p.radius_w) + 1 + p.shape.height + p.shape.width;
}
template <typename scalar_t>
int64_t contrast_norm_scratch(const ContrastProblem& p, bool backward) {
  return contrast_table(p) + 2 * p.images * p.shape.lanes +
         contrast_rooms(p, backward, sizeof(accumulate_t<scalar_t>)) * p.images * p.shape.plane();
}

// One call, for a part of its images at a time.
template <typename scalar_t>
class ContrastCall {
 public:
  using acc_t = accumulate_t<scalar_t>;

  // statistics: null where each map has its own.
  ContrastCall(const ContrastProblem& problem, const scalar_t* input, const scalar_t* grad_output,
               scalar_t* result, acc_t* statistics, acc_t* scratch, cudaStream_t stream)
      : p_(problem), stream_(stream) {
    const ContrastShape& s = p_.shape;
    c_.height = int(s.height);
    c_.width = int(s.width);
    c_.lanes = int(s.lanes);
    c_.maps = int(s.maps);
    c_.plane = int(s.plane());
    c_.interleaved = s.interleaved;
    c_.mean_divisor = p_.mean_divisor;
    c_.share = acc_t(1) / acc_t(s.maps);
    c_.least = least_divisor<acc_t>(p_);
    c_.input = input;
    c_.grad_output = grad_output;
    c_.result = result;
    const auto take = [&](int64_t elements) {
      acc_t* room = scratch;
      scratch += elements;
      return room;
    };
    const auto take_room = [&] { return take(p_.images * s.plane()); };
    c_.gaussian = take(max_of(p_.radius_h, p_.radius_w) + 1);
    c_.inverse_h = take(s.height);
    c_.inverse_w = take(s.width);
    c_.floor = take(p_.images * s.lanes);
    c_.floor_share = take(p_.images * s.lanes);
    c_.saved = p_.across_maps ? 2 * c_.plane : c_.plane;
    c_.mean = p_.across_maps ? statistics : take_room();
    c_.deviation = p_.across_maps ? statistics + c_.plane : take_room();
    if (grad_output) {
      c_.direct = take_room();
      c_.spread = take_room();
      c_.change = take_room();
    } else if (s.maps > 1) {
      c_.average = take_room();
      c_.variance = take_room();
    }
    if (!contrast_fits(p_, sizeof(acc_t))) c_.half = take_room();
  }

  cudaError_t run() {
    Tiles tiles;
    if (p_.images == 0) return cudaSuccess;
    contrast_tiles_of(p_, sizeof(acc_t), tiles);
    const int entries = int(contrast_table(p_));
    const cudaError_t error =
        launch(contrast_tabulate_kernel<scalar_t>, blocks_for(entries), dim3(kThreads), 0, stream_,
               c_, int(p_.radius_h), int(p_.radius_w), p_.sigma);
    if (error != cudaSuccess) return error;
    const int64_t largest = max_of(p_.shape.maps, 2) * p_.shape.plane();  // two statistics
    return for_batch_parts(p_.images, largest, [&](int64_t first, int64_t count) {
      const Contrast<scalar_t> c = part(first, count);
      tiles.images = int(count);
      return c.grad_output ? backward(c, tiles) : forward(c, tiles);
    });
  }

 private:
  const ContrastProblem p_;
  Contrast<scalar_t> c_{};
  cudaStream_t stream_;

  Contrast<scalar_t> part(int64_t first, int64_t count) const {
    Contrast<scalar_t> c = c_;
    c.images = int(count);
    for (const scalar_t** at : {&c.input, &c.grad_output}) {
      if (*at) *at += first * p_.shape.maps * p_.shape.plane();
    }
    c.result += first * p_.shape.maps * p_.shape.plane();
    for (acc_t** at : {&c.mean, &c.deviation}) *at += first * c.saved;
    for (acc_t** at : {&c.average, &c.variance, &c.half, &c.direct, &c.spread, &c.change}) {
      if (*at) *at += first * p_.shape.plane();
    }
    for (acc_t** at : {&c.floor, &c.floor_share}) *at += first * p_.shape.lanes;
    return c;
  }

  // Runs launches until one fails.
  template <class... Launches>
  static cudaError_t in_order(const Launches&... launches) {
    cudaError_t error = cudaSuccess;
    ((error = error == cudaSuccess ? launches() : error), ...);
    return error;
  }

  cudaError_t forward(const Contrast<scalar_t>& c, const Tiles& t) const {
    return in_order([&] { return statistics(c, t); }, [&] { return mean<ContrastMean::kFloor>(c); },
                    [&] { return result<false>(c); });
  }

  cudaError_t backward(const Contrast<scalar_t>& c, const Tiles& t) const {
    return in_order([&] { return p_.across_maps ? cudaSuccess : statistics(c, t); },
                    [&] { return mean<ContrastMean::kFloor>(c); },
                    [&] { return c.maps > 1 ? sum<ContrastSum::kGather>(c) : cudaSuccess; },
                    [&] { return mean<ContrastMean::kFloorShare>(c); },
                    [&] { return blur<ContrastBlur::kThroughDeviation>(c, t); },
                    [&] { return blur<ContrastBlur::kThroughMean>(c, t); },
                    [&] { return result<true>(c); });
  }

  cudaError_t statistics(const Contrast<scalar_t>& c, const Tiles& t) const {
    return in_order([&] { return c.maps > 1 ? sum<ContrastSum::kMoments>(c) : cudaSuccess; },
                    [&] { return blur<ContrastBlur::kMean>(c, t); },
                    [&] { return blur<ContrastBlur::kDeviation>(c, t); });
  }

  static constexpr int kCount = kPack<scalar_t>;
  static bool fits(const Contrast<scalar_t>& c) {  // a null pointer does
    return fits_packs<kCount>(c.input) && fits_packs<kCount>(c.grad_output) &&
           fits_packs<kCount>(c.result);
  }

  template <ContrastSum kSum>
  cudaError_t sum(const Contrast<scalar_t>& c) const {
    constexpr int kTeam = 8;
    const bool packed = c.maps % kCount == 0 && fits(c);
    const auto kernel = !c.interleaved ? contrast_sum_kernel<kSum, 1, 1, scalar_t>
                        : packed       ? contrast_sum_kernel<kSum, kTeam, kCount, scalar_t>
                                       : contrast_sum_kernel<kSum, kTeam, 1, scalar_t>;
    const dim3 blocks =
        blocks_for(int64_t(c.images) * c.plane, c.interleaved ? kThreads / kTeam : kThreads);
    return launch(kernel, blocks, dim3(kThreads), 0, stream_, c);
  }

  template <ContrastBlur kBlur>
  cudaError_t blur(const Contrast<scalar_t>& c, const Tiles& t) const {
    if (c.half) {
      const dim3 blocks = blocks_for(int64_t(c.images) * c.plane);
      return in_order(
          [&] {
            return launch(contrast_far_blur_kernel<false, scalar_t>, blocks, dim3(kThreads), 0,
                          stream_, c, t.columns, kBlur);
          },
          [&] {
            return launch(contrast_far_blur_kernel<true, scalar_t>, blocks, dim3(kThreads), 0,
                          stream_, c, t.rows, kBlur);
          });
    }
    const int y = t.rows.reach(), x = t.columns.reach();
    const size_t bytes = (t.area(y, x) + t.area(y, 0)) * sizeof(acc_t);
    return launch_tiles(contrast_blur_kernel<kBlur, scalar_t>, t, bytes, stream_, c, t);
  }

  template <ContrastMean kMean>
  cudaError_t mean(const Contrast<scalar_t>& c) const {
    int lane_bits = 0;
    while (1 << lane_bits < min_of(c.lanes, kWarpSize)) ++lane_bits;
    const int blocks = c.images * ((c.lanes + (1 << lane_bits) - 1) >> lane_bits);
    return launch(contrast_mean_kernel<kMean, scalar_t>, dim3(unsigned(blocks)), dim3(kMeanThreads),
                  0, stream_, c, lane_bits);
  }

  template <bool kBackward>
  cudaError_t result(const Contrast<scalar_t>& c) const {
    const int line = c.interleaved ? c.maps : c.plane;  // within which a pack must end
    const bool packed = line % kCount == 0 && fits(c);
    const int64_t elements = int64_t(c.images) * c.maps * c.plane;
    const int items = int(elements / (packed ? kCount : 1));
    const auto kernel = packed ? contrast_result_kernel<kBackward, kCount, scalar_t>
                               : contrast_result_kernel<kBackward, 1, scalar_t>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream_, c, items);
  }
};

template <typename scalar_t>
cudaError_t launch_contrast_norm(const scalar_t* input, scalar_t* output,
                                 accumulate_t<scalar_t>* statistics,
                                 accumulate_t<scalar_t>* scratch, const ContrastProblem& p,
                                 cudaStream_t stream) {
  return ContrastCall<scalar_t>(p, input, nullptr, output, statistics, scratch, stream).run();
}

template <typename scalar_t>
cudaError_t launch_contrast_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                          const accumulate_t<scalar_t>* statistics,
                                          scalar_t* grad_input, accumulate_t<scalar_t>* scratch,
                                          const ContrastProblem& p, cudaStream_t stream) {
  return ContrastCall<scalar_t>(p, input, grad_output, grad_input,
                                const_cast<accumulate_t<scalar_t>*>(statistics), scratch, stream)
      .run();
}

}  // namespace fastconv
