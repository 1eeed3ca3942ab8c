// Scratch memory of a kernel, aligned for every vector width.
//
// Kernels use this rather than std::vector: a standard template compiled for AVX-512 is the same
// symbol as its copy in the host code, and the linker may keep the wrong one.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

namespace fastconv {
namespace FASTCONV_ISA {

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)  // all bits 0
      : begin(static_cast<T*>(::operator new(size * sizeof(T), kAlignment))) {
    memset(begin, 0, size * sizeof(T));
  }
  ~Buffer() { ::operator delete(begin, kAlignment); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return begin; }
  const T* data() const { return begin; }
  T& operator[](int64_t i) { return begin[i]; }
  const T& operator[](int64_t i) const { return begin[i]; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* begin;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
