// One kernel text, several instruction sets, one choice at run time.
//
// Each csrc/cpu/<op>_kernel.cpp is compiled once per instruction set with FASTCONV_ISA naming the
// namespace that its functions go to. <op>.h declares them in all of these namespaces with
// FASTCONV_FOR_EACH_ISA, and FASTCONV_ISA_CALL picks the best one that this processor runs. What a
// kernel uses must live in that namespace too or have internal linkage: of a template that is the
// same symbol in every copy (std::vector), the linker may keep the one for the wrong processor.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#define FASTCONV_X86 1
#else
#define FASTCONV_X86 0
#endif

#if FASTCONV_X86
#define FASTCONV_FOR_EACH_ISA(...) \
  namespace baseline {             \
  __VA_ARGS__                      \
  }                                \
  namespace avx2 {                 \
  __VA_ARGS__                      \
  }                                \
  namespace avx512 {               \
  __VA_ARGS__                      \
  }
#define FASTCONV_ISA_CALL(...)         \
  switch (::fastconv::current_isa()) { \
    case ::fastconv::Isa::avx512:      \
      avx512::__VA_ARGS__;             \
      break;                           \
    case ::fastconv::Isa::avx2:        \
      avx2::__VA_ARGS__;               \
      break;                           \
    default:                           \
      baseline::__VA_ARGS__;           \
  }
#else
#define FASTCONV_FOR_EACH_ISA(...) \
  namespace baseline {             \
  __VA_ARGS__                      \
  }
#define FASTCONV_ISA_CALL(...) baseline::__VA_ARGS__
#endif

namespace fastconv {

enum class Isa { baseline, avx2, avx512 };

// The best instruction set of this processor, or a lower one that the environment variable
// FASTCONV_CPU_CAPABILITY (baseline, avx2, avx512) names; read once.
Isa current_isa();
const char* isa_name(Isa isa);

}  // namespace fastconv
