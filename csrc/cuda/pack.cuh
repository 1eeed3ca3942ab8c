// Neighbouring elements that one thread moves in one access.
#pragma once

#include "core/numeric.h"
#include "cuda/platform.cuh"

namespace fastconv {

// kCount elements, read or written at once; its address must be a multiple of its size.
template <typename scalar_t, int kCount>
struct alignas(sizeof(scalar_t) * kCount) Pack {
  scalar_t lane[kCount];
};

// As many elements as 16 bytes hold.
template <typename scalar_t>
constexpr int kPack = 16 / sizeof(scalar_t);

template <int kCount, typename scalar_t>
__device__ __forceinline__ Pack<scalar_t, kCount> load_pack(const scalar_t* p) {
  return *reinterpret_cast<const Pack<scalar_t, kCount>*>(p);
}

template <int kCount, typename scalar_t>
__device__ __forceinline__ void store_pack(scalar_t* p, const Pack<scalar_t, kCount>& pack) {
  *reinterpret_cast<Pack<scalar_t, kCount>*>(p) = pack;
}

// Whether packs of kCount elements can be read at every multiple of kCount from p.
template <int kCount, typename scalar_t>
bool fits_packs(const scalar_t* p) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(scalar_t) * kCount) == 0;
}

}  // namespace fastconv
