#include "cpu/kept_memory.h"
#include "glue/tensor.h"

// In torch's stable ABI from 2.11 on; with 2.10, for which this library is built too, it is null.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* result,
    int32_t layout, const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
    void (*deleter)(void* data, void* context), void* context);

namespace fastconv {

static int64_t element_size(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
      return 4;
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return 2;
    default:  // Byte, Bool
      return 1;
  }
}

static std::vector<int64_t> dense_strides(const std::vector<int64_t>& sizes, MemoryFormat format) {
  std::vector<int64_t> strides(sizes.size());
  std::vector<size_t> order(sizes.size());  // of the axes, the slowest first
  for (size_t d = 0; d < sizes.size(); ++d) order[d] = d;
  if (format == MemoryFormat::ChannelsLast) order = {0, 2, 3, 1};
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[order[i]] = step;
    step *= sizes[order[i]];
  }
  return strides;
}

// Results from here on have memory of their own.
constexpr int64_t kLarge = int64_t(1) << 20;  // bytes

Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type,
                  MemoryFormat format) {
  int64_t bytes = element_size(type);
  for (int64_t size : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) bytes = 0;  // torch has the words for it
  }
  if (bytes < kLarge || !torch_from_blob || !keeps_memory()) {
    return plain_new_tensor(like, sizes, type, format);
  }
  MemoryBlock* block = take_memory(size_t(bytes));
  if (!block) throw NoMemory("not enough memory for a tensor of shape " + shape_text(sizes));
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  AtenTensorHandle handle;
  const auto strides = dense_strides(sizes, format);
  const auto failed = torch_from_blob(
      block->begin, int64_t(sizes.size()), sizes.data(), strides.data(), 0, to<int32_t>(from(type)),
      to<int32_t>(from(like.device().type())), like.device().index(), &handle,
      aoti_torch_layout_strided(), nullptr, 0,
      [](void*, void* context) { give_memory_back(static_cast<MemoryBlock*>(context)); }, block);
  if (failed) {
    give_memory_back(block);
    return plain_new_tensor(like, sizes, type, format);
  }
  return Tensor(handle);
}

}  // namespace fastconv
