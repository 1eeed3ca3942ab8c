// What lets one text be read by the host compiler and by nvcc.
#pragma once

#if defined(__CUDACC__)
#define FASTCONV_HOST_DEVICE __host__ __device__
#else
#define FASTCONV_HOST_DEVICE
#endif

// Functions in core/ have internal linkage: the same header is compiled for several instruction
// sets, and a linker that merged the copies could keep one that this processor cannot run.
#define FASTCONV_INLINE static inline FASTCONV_HOST_DEVICE
