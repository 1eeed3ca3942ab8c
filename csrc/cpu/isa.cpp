#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace fastconv {

static Isa best_isa() {
#if FASTCONV_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has_avx512 ? Isa::avx512 : has_avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

static Isa chosen_isa() {
  const Isa best = best_isa();
  const char* wish = std::getenv("FASTCONV_CPU_CAPABILITY");
  if (wish == nullptr) return best;
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (isa <= best && std::strcmp(wish, isa_name(isa)) == 0) return isa;
  }
  return best;
}

Isa current_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}

}  // namespace fastconv
