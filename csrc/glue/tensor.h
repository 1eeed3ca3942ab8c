// What the host side of every op needs of a tensor: checks, memory format, allocation, dtype.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fastconv {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// FASTCONV_CHECK(op, condition, rule and value...) raises RuntimeError("op: rule (got value)").
// (torch's own STD_TORCH_CHECK would put this file's name in front.)
template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}
#define FASTCONV_CHECK(op, condition, ...)               \
  do {                                                   \
    if (!(condition)) ::fastconv::fail(op, __VA_ARGS__); \
  } while (false)

// There is no room for a tensor. The op's entry (cpu/dispatch.h) puts the op's name in front.
struct NoMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Sizes = std::vector<int64_t>;  // of a 4-d tensor
inline Sizes sizes_of(const Tensor& t) { return {t.size(0), t.size(1), t.size(2), t.size(3)}; }

inline std::string shape_text(const Tensor& t) {
  std::ostringstream text;
  text << "(";
  for (int64_t d = 0; d < t.dim(); ++d) text << (d ? ", " : "") << t.size(d);
  text << (t.dim() == 1 ? ",)" : ")");
  return text.str();
}

inline bool is_floating(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline void check_floating(const char* op, const char* name, const Tensor& t) {
  FASTCONV_CHECK(op, is_floating(t), name, " must be float32, float64, float16 or bfloat16 (got ",
                 torch::headeronly::toString(t.scalar_type()), ")");
}

inline void check_rank4(const char* op, const char* name, const Tensor& t) {
  FASTCONV_CHECK(op, t.dim() == 4, name, " must have 4 dimensions (N, C, H, W) (got shape ",
                 shape_text(t), ")");
}

inline void check_same_dtype(const char* op, const char* name, const Tensor& t,
                             const char* other_name, const Tensor& other) {
  FASTCONV_CHECK(op, t.scalar_type() == other.scalar_type(), name, " must have the dtype of ",
                 other_name, " (got ", torch::headeronly::toString(t.scalar_type()), " and ",
                 torch::headeronly::toString(other.scalar_type()), ")");
}

inline void check_same_device(const char* op, const char* name, const Tensor& t,
                              const char* other_name, const Tensor& other) {
  FASTCONV_CHECK(op,
                 t.device().type() == other.device().type() &&
                     t.get_device_index() == other.get_device_index(),
                 name, " must be on the device of ", other_name);
}

// Whether a 4-d tensor's channels are its fastest axis. Where the strides fit both formats
// (one channel, or 1x1 maps) it counts as contiguous, as in torch.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return t.stride(1) == 1 && t.stride(3) >= c && t.stride(2) >= t.stride(3) * w &&
         (t.size(0) == 1 || t.stride(0) >= t.stride(2) * h);
}

inline MemoryFormat memory_format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}
inline MemoryFormat memory_format_of(const Tensor& t) {
  return memory_format_of(is_channels_last(t));
}

inline std::string shape_text(const Sizes& sizes) {
  std::ostringstream text;
  for (size_t d = 0; d < sizes.size(); ++d) text << (d ? ", " : "(") << sizes[d];
  text << ")";
  return text.str();
}

// allocate(), which on the CPU fails for want of memory alone: the stable ABI does not hand the
// reason on. `shape`: of the new tensor, a tensor or sizes.
template <class Shape, class F>
Tensor allocated(const Tensor& like, const Shape& shape, const F& allocate) {
  try {
    return allocate();
  } catch (const std::exception&) {
    if (like.device().type() != torch::headeronly::DeviceType::CPU) throw;
    throw NoMemory("not enough memory for a tensor of shape " + shape_text(shape));
  }
}

// Whether a tensor lies in this format without gaps. May say no where a size is 1.
inline bool is_dense(const Tensor& t, MemoryFormat format) {
  if (format == MemoryFormat::Contiguous) return t.is_contiguous();
  if (t.dim() != 4) return false;
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return t.stride(1) == 1 && t.stride(3) == c && t.stride(2) == c * w && t.stride(0) == c * w * h;
}

// The tensor itself where it has this format already.
inline Tensor contiguous_as(const Tensor& t, MemoryFormat format) {
  if (is_dense(t, format)) return t;
  return allocated(t, t, [&] { return torch::stable::contiguous(t, format); });
}

// A new tensor on the device of another one, its elements not set. Each library has its own:
// cpu/new_tensor.cpp and cuda/new_tensor.cpp.
Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type,
                  MemoryFormat format);

// As torch makes it.
inline Tensor plain_new_tensor(const Tensor& like, const std::vector<int64_t>& sizes,
                               ScalarType type, MemoryFormat format) {
  return allocated(like, sizes, [&] {
    return torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format);
  });
}

}  // namespace fastconv
