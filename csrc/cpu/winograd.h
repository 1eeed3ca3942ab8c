// Convolution with fewer multiplications (Winograd; Lavin & Gray, CVPR 2016), on the CPU.
//
// Two by two outputs of 3x3 taps come from a tile d of 4x4 inputs with 16 multiplications instead
// of 36: with B, G, A constant matrices,
//
//   y = At [(G g Gt) * (Bt d B)] A,   * element by element,
//
// and summed over channels each of the 16 elements is a matrix product of its own. B and A hold 0
// and +-1 alone, G also 1/2: rounding errors stay as small as those of plain sums, which is why
// larger tiles, with fewer multiplications still, are not used.
//
// Every kernel and stride is brought to this form. With stride s the image is folded: its pixels
// (Y * s + py, X * s + px) become the pixel (Y, X) with s * s as many channels (py, px, c), and the
// convolution has stride 1 and ceil(k / s) taps an axis. More than 3 taps are blocks of 3, whose
// inputs lie 3 pixels apart; what a block has too many is 0. The sum runs over blocks and folded
// channels.
//
// The gradient of the input is a convolution of the output's gradient with the turned filter. The
// gradient of the weight is the adjoint, dg = Gt [(A dy At) * (Bt d B)] G summed over all tiles.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace fastconv {

constexpr int64_t kWinogradTaps = 3, kWinogradOutputs = 2, kWinogradTile = 4;
constexpr int64_t kWinogradElements = kWinogradTile * kWinogradTile;
constexpr int64_t kWinogradChunk = 16;    // folded channels are padded to a multiple of this
constexpr int64_t kWinogradPanel = 32;    // room for columns comes in multiples of this
constexpr int64_t kWinogradColumns = 64;  // that a kernel works on together
constexpr int64_t kWinogradPad = 16;  // between elements, or all would fall on one set of a cache

// How an image lies in memory, and how it is folded.
struct Folding {
  void* image;        // elements of the op's scalar_t
  int64_t stride[4];  // n, c, h, w
  int64_t height, width;
  int64_t channels;   // of a group
  int64_t step[2];    // rows and columns that are folded into channels
  int64_t origin[2];  // of the folded image in the image; negative for padding

  int64_t depth() const { return step[0] * step[1] * channels; }
};

// A folded copy of an image, with zeros outside it: (n, row, column, group, depth). Or the image
// itself, where nothing is folded and vectors of its channels can be read in place.
struct FoldedImage {
  Folding of;
  int64_t batch, groups, rows, cols;
  int64_t depth;  // of.depth(), padded
  void* memory;   // elements of acc_t, or null: the image itself

  void pad_depth(int64_t multiple) { depth = (of.depth() + multiple - 1) / multiple * multiple; }
  int64_t image_size() const { return rows * cols * groups * depth; }
  int64_t size() const { return batch * image_size(); }
};

// A filter in memory: element (o, c, tap row, tap column), and how it meets a folded image.
struct Filter {
  void* weight;  // elements of scalar_t
  int64_t stride[4];
  int64_t maps, channels;  // of a group
  int64_t kernel[2], step[2];
  bool turned;  // summed over the maps instead of the folded channels, with the taps backwards

  int64_t folded_taps(int axis) const { return (kernel[axis] + step[axis] - 1) / step[axis]; }
  int64_t folded_channels() const { return step[0] * step[1] * channels; }
  int64_t blocks(int axis) const { return (folded_taps(axis) + kWinogradTaps - 1) / kWinogradTaps; }
};

// output[column, pixel] = sum of filter * input, for each group.
struct Winograd {
  FoldedImage input;
  Filter filter;
  int64_t tiles[2];  // of an image
  int64_t columns;   // maps of a group; folded channels of one, where the filter is turned
  // A unit of work: so many tiles of a group, and one of the parts that its columns are cut into.
  int64_t together, column_parts;
  // What winograd_filters() makes: (group, element, panel, sum, column) of acc_t.
  void* transformed;
  Folding output;
  int64_t output_bytes;  // of the whole batch
  const void* bias;      // one for each column of each group, or null
  bool relu;

  int64_t all_tiles() const { return input.batch * tiles[0] * tiles[1]; }
  int64_t sum() const { return filter.blocks(0) * filter.blocks(1) * input.depth; }
  int64_t panels() const { return (columns + kWinogradPanel - 1) / kWinogradPanel; }
  int64_t transformed_size() const {  // of an element
    return panels() * kWinogradPanel * sum() + kWinogradPad;
  }
  int64_t filter_units() const { return input.groups * panels() * (sum() / kWinogradChunk); }
  int64_t tile_units() const { return (all_tiles() + together - 1) / together; }
  int64_t units() const { return column_parts * input.groups * tile_units(); }
  // Of a unit. Neighbours have the same part and group, and then the same filters.
  int64_t first_tile(int64_t unit) const { return unit % tile_units() * together; }
  int64_t group(int64_t unit) const { return unit / tile_units() % input.groups; }
  int64_t column_part(int64_t unit) const { return unit / tile_units() / input.groups; }
  // A part's first column; parts are whole blocks.
  int64_t column_blocks() const { return (columns + kWinogradColumns - 1) / kWinogradColumns; }
  int64_t first_block(int64_t part) const { return column_blocks() * part / column_parts; }
};

// The gradient of a weight.
struct WinogradGradient {
  FoldedImage input, grad_output;
  Filter filter;  // the gradient
  int64_t tiles[2];
  void* sums;  // (group, element, panels of both), added to

  int64_t all_tiles() const { return input.batch * tiles[0] * tiles[1]; }
  int64_t taps() const { return filter.blocks(0) * filter.blocks(1) * input.depth; }
  int64_t panels() const { return (taps() + kWinogradPanel - 1) / kWinogradPanel; }
  int64_t units() const { return input.groups * kWinogradElements * panels(); }
  int64_t sums_size() const {  // of an element; 12 is a multiple of every kernel's rows
    return panels() * kWinogradPanel * ((filter.maps + 11) / 12 * 12) + kWinogradPad;
  }
};

// Each does the units [begin, end). Every element is summed in the same order whatever the units.
// *finite becomes false where a result is infinite or NaN, for a tile spreads these to results that
// do not see them.
FASTCONV_FOR_EACH_ISA(
    // Rows of all images.
    template <typename scalar_t>
    void winograd_fold(const FoldedImage& image, int64_t begin, int64_t end);
    // filter_units() of them.
    template <typename scalar_t>
    void winograd_filters(const Winograd& p, int64_t begin, int64_t end);
    // units() of them.
    template <typename scalar_t>
    void winograd_outputs(const Winograd& p, int64_t begin, int64_t end, bool* finite);
    // Of the gradient's units(): groups, elements of a tile, panels of kWinogradPanel taps.
    template <typename scalar_t>
    void winograd_products(const WinogradGradient& p, int64_t begin, int64_t end);
    // Maps of all groups.
    template <typename scalar_t>
    void winograd_weights(const WinogradGradient& p, int64_t begin, int64_t end, bool* finite);)

}  // namespace fastconv
