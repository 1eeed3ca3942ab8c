// The products of conv2d_product.cuh in ordinary arithmetic: any type, layout, alignment and number
// of channels. Tiles of 64 x 64 results, 16 terms at a time through shared memory, 4 x 4 results a
// thread.
#pragma once

#include "cuda/conv2d_product.cuh"

namespace fastconv {

struct PlainTile {
  static constexpr int kSide = 64, kDepth = 16, kMine = 4, kAcross = kSide / kMine;
  static constexpr int kLoads = kSide / (kThreads / kDepth);  // elements a thread fetches, twice
  static_assert(kAcross * kAcross == kThreads && kLoads == 4);
};

// How the tile's loop sees an image product: rows are pixels, columns the outputs.
template <typename scalar_t>
struct PlainImage : ImageProduct<scalar_t> {
  using acc_t = accumulate_t<scalar_t>;
  using Base = ImageProduct<scalar_t>;
  struct Row {
    const scalar_t* image;
    int y, x;
  };
  struct Column {
    const scalar_t* weight;
  };
  struct Step {
    int c, r, s;
  };

  FASTCONV_HOST_DEVICE PlainImage(const Base& base) : Base(base) {}

  __device__ int row_count() const { return this->rows(); }
  __device__ int column_count() const { return this->outputs; }
  __device__ int begin(int) const { return 0; }
  __device__ int end(int) const { return this->depth(); }

  __device__ Row row(int m, int group) const {
    if (m >= this->rows()) return {nullptr, 0, 0};
    const PixelIndex at = pixel_at(m, this->h, this->w);
    return {this->image + at.n * this->image_steps.n +
                int64_t(group) * this->channels * this->image_steps.c,
            this->h.first(at.y), this->w.first(at.x)};
  }
  __device__ Column column(int o, int group) const {
    if (o >= this->outputs) return {nullptr};
    return {this->weight + group * this->weight_group + int64_t(o) * this->weight_steps.o};
  }
  __device__ Step step(int k) const {
    const int taps = this->h.taps * this->w.taps;
    // Neighbouring threads fetch what is adjacent in memory: channels, or columns of the image.
    const bool channels_inner = this->image_steps.c == 1;
    const int c = channels_inner ? k % this->channels : k / taps;
    const int tap = channels_inner ? k / this->channels : k % taps;
    return {c, tap / this->w.taps, tap % this->w.taps};
  }
  __device__ acc_t a(const Row& row, const Step& k) const {
    const int y = row.y + k.r * this->h.step, x = row.x + k.s * this->w.step;
    if (!row.image || unsigned(y) >= unsigned(this->h.size) ||
        unsigned(x) >= unsigned(this->w.size)) {
      return 0;
    }
    const ImageSteps& s = this->image_steps;
    return to_acc(row.image[y * s.h + x * s.w + k.c * s.c]);
  }
  __device__ acc_t b(const Column& column, const Step& k) const {
    const FilterSteps& s = this->weight_steps;
    return column.weight ? to_acc(column.weight[k.c * s.c + k.r * s.h + k.s * s.w]) : acc_t(0);
  }
  __device__ void store(int m, int o, int group, int, acc_t value) const {
    const PixelIndex at = pixel_at(m, this->h, this->w);
    const int channel = group * this->outputs + o;
    if (this->bias) value += to_acc(this->bias[channel]);
    if (this->relu && value < 0) value = 0;
    const ImageSteps& s = this->result_steps;
    from_acc(value, this->result[at.n * s.n + at.y * s.h + at.x * s.w + int64_t(channel) * s.c]);
  }
};

// The same for a weight product: rows are outputs, columns taps and channels, terms pixels.
template <typename scalar_t>
struct PlainWeight : WeightProduct<scalar_t> {
  using acc_t = accumulate_t<scalar_t>;
  using Base = WeightProduct<scalar_t>;
  struct Row {
    const scalar_t* grad;
  };
  struct Column {
    int c, r, s;  // c < 0: outside
  };
  struct Step {
    int64_t grad;
    const scalar_t* image;
    int y, x;
  };

  FASTCONV_HOST_DEVICE PlainWeight(const Base& base) : Base(base) {}

  __device__ int row_count() const { return this->outputs; }
  __device__ int column_count() const { return this->columns(); }
  __device__ int begin(int split) const { return split * this->split_length(PlainTile::kDepth); }
  __device__ int end(int split) const {
    return min_of(this->depth(), begin(split) + this->split_length(PlainTile::kDepth));
  }

  __device__ Row row(int o, int group) const {
    const int channel = group * this->outputs + o;
    return {o < this->outputs ? this->grad + int64_t(channel) * this->grad_steps.c : nullptr};
  }
  __device__ Column column(int k, int group) const {
    if (k >= this->columns()) return {-1, 0, 0};
    const int tap = k / this->channels;
    return {group * this->channels + k % this->channels, tap / this->w.taps, tap % this->w.taps};
  }
  __device__ Step step(int pixel) const {
    const PixelIndex at = pixel_at(pixel, this->h, this->w);
    const ImageSteps& s = this->grad_steps;
    return {at.n * s.n + at.y * s.h + at.x * s.w, this->image + at.n * this->image_steps.n,
            this->h.first(at.y), this->w.first(at.x)};
  }
  __device__ acc_t a(const Row& row, const Step& k) const {
    return row.grad ? to_acc(row.grad[k.grad]) : acc_t(0);
  }
  __device__ acc_t b(const Column& column, const Step& k) const {
    const int y = k.y + column.r * this->h.step, x = k.x + column.s * this->w.step;
    if (column.c < 0 || unsigned(y) >= unsigned(this->h.size) ||
        unsigned(x) >= unsigned(this->w.size)) {
      return 0;
    }
    const ImageSteps& s = this->image_steps;
    return to_acc(k.image[y * s.h + x * s.w + int64_t(column.c) * s.c]);
  }
  __device__ void store(int o, int k, int group, int split, acc_t value) const {
    this->sums(split, group, o)[k] = value;
  }
};

// Members of a family take a few registers more: they may have all, and none spills.
template <class Product, class Products>
__global__ void __launch_bounds__(kThreads, kIsFamily<Products> ? 1 : 0)
    conv2d_plain_kernel(Products products, int column_tiles) {
  using acc_t = typename Product::acc_t;
  using T = PlainTile;
  FASTCONV_SHARED(acc_t, a, T::kDepth * T::kSide);
  FASTCONV_SHARED(acc_t, b, T::kDepth * T::kSide);
  const int thread = int(threadIdx.x);
  const int row0 = int(blockIdx.x) / column_tiles * T::kSide;
  const int column0 = int(blockIdx.x) % column_tiles * T::kSide;
  const int group = int(blockIdx.y), split = products.split(int(blockIdx.z));
  const Product& p = products.at(int(blockIdx.z));
  if (kIsFamily<Products> && row0 >= p.row_count()) return;  // of a member with fewer rows

  // A thread fetches one term of four rows and of four columns.
  const int term = thread % T::kDepth, line = thread / T::kDepth;
  typename Product::Row row[T::kLoads];
  typename Product::Column column[T::kLoads];
  for (int i = 0; i < T::kLoads; ++i) {
    row[i] = p.row(row0 + line + i * T::kDepth, group);
    column[i] = p.column(column0 + line + i * T::kDepth, group);
  }
  const int r = thread / T::kAcross * T::kMine, c = thread % T::kAcross * T::kMine;
  acc_t sum[T::kMine][T::kMine] = {};
  const int end = p.end(split);
  for (int k0 = p.begin(split); k0 < end; k0 += T::kDepth) {
    const bool inside = k0 + term < end;
    const auto step = p.step(inside ? k0 + term : k0);
    for (int i = 0; i < T::kLoads; ++i) {
      const int at = term * T::kSide + line + i * T::kDepth;
      a[at] = inside ? p.a(row[i], step) : acc_t(0);
      b[at] = inside ? p.b(column[i], step) : acc_t(0);
    }
    __syncthreads();
    acc_t part[T::kMine][T::kMine] = {};  // a short chain of roundings; one long chain drifts
    for (int k = 0; k < T::kDepth; ++k) {
      for (int i = 0; i < T::kMine; ++i) {
        for (int j = 0; j < T::kMine; ++j) {
          part[i][j] += a[k * T::kSide + r + i] * b[k * T::kSide + c + j];
        }
      }
    }
    for (int i = 0; i < T::kMine; ++i) {
      for (int j = 0; j < T::kMine; ++j) sum[i][j] += part[i][j];
    }
    __syncthreads();
  }
  for (int i = 0; i < T::kMine; ++i) {
    for (int j = 0; j < T::kMine; ++j) {
      if (row0 + r + i < p.row_count() && column0 + c + j < p.column_count()) {
        p.store(row0 + r + i, column0 + c + j, group, split, sum[i][j]);
      }
    }
  }
}

template <class Product, class Products>
cudaError_t launch_plain(const Products& products, int64_t rows, int64_t columns, int64_t splits,
                         cudaStream_t stream) {
  const int64_t row_tiles = ceil_div(rows, PlainTile::kSide);
  const int column_tiles = int(ceil_div(columns, PlainTile::kSide));
  const int groups = products.largest().groups;
  if (row_tiles == 0 || groups == 0) return cudaSuccess;
  const dim3 grid(unsigned(row_tiles * column_tiles), unsigned(groups),
                  unsigned(splits * products.count()));
  return launch(conv2d_plain_kernel<Product, Products>, grid, dim3(kThreads), 0, stream, products,
                column_tiles);
}

template <typename scalar_t, class Products>
cudaError_t launch_image_plain(const Products& products, cudaStream_t stream) {
  const auto& p = products.largest();
  return launch_plain<PlainImage<scalar_t>>(products, p.rows(), p.outputs, 1, stream);
}

template <typename scalar_t, class Products>
cudaError_t launch_weight_plain(const Products& products, cudaStream_t stream) {
  const auto& p = products.largest();
  return launch_plain<PlainWeight<scalar_t>>(products, p.outputs, p.columns(), p.splits, stream);
}

}  // namespace fastconv
