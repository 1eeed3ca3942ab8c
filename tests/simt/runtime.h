// A stand-in for the CUDA runtime that executes kernels on the CPU, a fiber for each thread.
//
// README.md says what it checks and what it cannot see. Blocks run one after another; the threads
// of a block take turns at barriers and warp collectives, in an order that the test chooses.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define FASTCONV_NOINLINE __attribute__((noinline))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

inline uint3 threadIdx, blockIdx;  // of the fiber that runs
inline dim3 blockDim, gridDim;

namespace simt {

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};

enum class Order { kForward, kReverse, kShuffled };

constexpr unsigned kWarp = 32, kWarpgroup = 128, kWholeWarp = 0xffffffffu;
constexpr size_t kStackBytes = 128 << 10, kOperandBytes = 64;
constexpr size_t kMostShared = 227 << 10;  // of one block on sm_90
constexpr size_t kSharedPattern = 1024;    // dynamic shared memory is aligned to it

struct Copy {  // a cp.async under way
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Operands {  // of a wgmma, as they were when it was issued: a line's terms, then the next
                   // line's
  std::vector<uint16_t> bits;  // a's lines, then b's
  std::vector<float> values;
};

struct Product {  // a wgmma under way
  float* sums;
  int columns;
  uint64_t a, b;  // matrix descriptors
  bool across_a, across_b;
  float (*value)(uint16_t);
  std::shared_ptr<const Operands> operands;
  bool committed;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 index;
  bool done;
  const char* waits_for;  // null: can run
  const int* generation;  // runs on when this differs from `seen`
  int seen;
  std::deque<std::vector<Copy>> copies;  // groups, the last one open
  bool copied;                           // copies arrived after the last fence.proxy.async
  bool sums_fenced;                      // wgmma.fence since sums could be written
  std::vector<Product> products;
  std::map<float*, std::vector<float>> sums;  // what products under way add to
  void* fake_stack;                           // AddressSanitizer's
};

struct Rendezvous {
  int arrived = 0, generation = 0;
  const char* file = nullptr;  // where the first one arrived: all must come from one place
  int line = 0;
};

struct Warp : Rendezvous {
  alignas(16) unsigned char operand[2][kWarp][kOperandBytes];
};

struct Warpgroup : Rendezvous {
  uint64_t a, b;  // of the first one that arrived
  std::shared_ptr<const Operands> operands;
  int read_in = -1;  // the generation that `operands` are of
};

struct Machine {
  Order order = Order::kForward;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  Rendezvous barrier;
  size_t alive = 0;
  bool has_products = false;  // of warpgroups, in this launch
  std::map<std::pair<const char*, int>, std::unique_ptr<char[]>> shared;
  std::unique_ptr<char[], Free> dynamic_shared;
  size_t shared_bytes = 0;
  ucontext_t scheduler;
  Fiber* running = nullptr;
  std::function<void()> body;
  uint64_t random = 1;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};
inline Machine machine;

// Says what a kernel did wrong, and where, and ends the process.
[[noreturn]] inline void fault(const std::string& what) {
  std::fprintf(stderr, "simt: %s, in block (%u, %u, %u), thread (%u, %u, %u)\n", what.c_str(),
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::fflush(stderr);
  std::_Exit(3);
}

// ---- fibers ------------------------------------------------------------------------------------

inline void switch_to_scheduler(Fiber& f, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &f.fake_stack, machine.scheduler_stack,
                                 machine.scheduler_stack_bytes);
#endif
  (void)for_good;
  swapcontext(&f.context, &machine.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f.fake_stack, nullptr, nullptr);
#endif
}

inline void arrive(Rendezvous& place, size_t expected, const char* name, const char* file,
                   int line) {
  if (place.arrived == 0) {
    place.file = file;
    place.line = line;
  } else if (place.file != file || place.line != line) {
    fault(std::string("threads wait at different places: line ") + std::to_string(place.line) +
          " and line " + std::to_string(line) + " of " + file);
  }
  Fiber& f = *machine.running;
  if (size_t(++place.arrived) == expected) {
    place.arrived = 0;
    ++place.generation;
    return;
  }
  f.waits_for = name;
  f.generation = &place.generation;
  f.seen = place.generation;
  switch_to_scheduler(f, false);
}

inline void perform(const std::vector<Copy>& group) {
  for (const Copy& c : group) {
    if (c.valid) {
      std::memcpy(c.to, c.from, c.bytes);
    } else {
      std::memset(c.to, 0, c.bytes);
    }
  }
  machine.running->copied |= !group.empty();
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack,
                                  &machine.scheduler_stack_bytes);
#endif
  machine.body();
  Fiber& f = *machine.running;
  for (const auto& group : f.copies) perform(group);
  if (!f.products.empty()) fault("the thread ends before its warpgroup's products");
  f.copied = false;
  f.done = true;
  --machine.alive;
  // A barrier waits only for threads that have not ended.
  Rendezvous& barrier = machine.barrier;
  if (barrier.arrived > 0 && size_t(barrier.arrived) == machine.alive) {
    barrier.arrived = 0;
    ++barrier.generation;
  }
  switch_to_scheduler(f, true);
}

inline void resume(Fiber& f) {
  machine.running = &f;
  threadIdx = f.index;
  f.waits_for = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, f.stack.get(), kStackBytes);
#endif
  swapcontext(&machine.scheduler, &f.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// Positions 0 ... count - 1 in the order that the test chose.
inline std::vector<size_t> in_order(size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t(0));
  if (machine.order == Order::kReverse) std::reverse(order.begin(), order.end());
  if (machine.order == Order::kShuffled) {
    for (size_t i = count; i > 1; --i) {
      machine.random = machine.random * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i - 1], order[(machine.random >> 33) % i]);
    }
  }
  return order;
}

inline void start_fibers(size_t threads) {
  machine.fibers.resize(std::max(machine.fibers.size(), threads));
  for (size_t t = 0; t < threads; ++t) {
    Fiber& f = machine.fibers[t];
    if (!f.stack) f.stack = std::make_unique<char[]>(kStackBytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f.stack.get(), kStackBytes);
#endif
    f.index = {unsigned(t % blockDim.x), unsigned(t / blockDim.x % blockDim.y),
               unsigned(t / blockDim.x / blockDim.y)};
    f.done = false;
    f.waits_for = nullptr;
    f.copies.assign(1, {});
    f.copied = f.sums_fenced = false;
    getcontext(&f.context);
    f.context.uc_stack = {f.stack.get(), 0, kStackBytes};
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
  }
}

inline void run_block() {
  const size_t threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
  machine.warps.assign(threads / kWarp, {});
  machine.warpgroups.assign(threads / kWarpgroup, {});
  machine.barrier = {};
  machine.alive = threads;
  machine.shared.clear();
  if (machine.dynamic_shared) {  // 0xff bytes are a NaN in every floating type, and -1
    std::memset(machine.dynamic_shared.get(), 0xff, machine.shared_bytes);
  }
  start_fibers(threads);
  while (machine.alive > 0) {
    bool progress = false;
    const char* waits_for = nullptr;
    for (size_t t : in_order(threads)) {
      Fiber& f = machine.fibers[t];
      if (f.done) continue;
      if (f.waits_for && *f.generation == f.seen) {
        waits_for = f.waits_for;
        continue;
      }
      resume(f);
      progress = true;
      // The last warps go as far as they can. In turn, from collective to collective, those of
      // warpgroups would hide a missing barrier.
      if (machine.order == Order::kReverse && machine.has_products) break;
    }
    if (!progress) {
      fault(std::string("deadlock: threads wait at ") + waits_for + " for others that ended");
    }
  }
}

// ---- what kernels call -------------------------------------------------------------------------

template <typename T>
T* shared(size_t count, const char* file, int line) {
  auto& memory = machine.shared[{file, line}];
  if (!memory) {
    memory = std::make_unique<char[]>(count * sizeof(T));
    std::memset(memory.get(), 0xff, count * sizeof(T));
  }
  return reinterpret_cast<T*>(memory.get());
}

inline unsigned thread_index() {  // in the block
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

// Every lane of the warp gives an operand and gets those of all: operands[lane].
template <typename T>
const T* exchange(const T& mine, const char* name, const char* file, int line) {
  static_assert(sizeof(T) == kOperandBytes);
  const unsigned thread = thread_index();
  Warp& warp = machine.warps[thread / kWarp];
  // Two sets of operands: nobody can be two collectives ahead of a lane that still reads.
  auto& operands = warp.operand[warp.generation & 1];
  std::memcpy(operands[thread % kWarp], &mine, sizeof(T));
  arrive(warp, kWarp, name, file, line);
  return reinterpret_cast<const T*>(operands);
}

template <typename T>
struct alignas(16) Operand {
  T value;
  char rest[kOperandBytes - sizeof(T)];
};

template <typename T>
T shuffle(unsigned mask, T value, int from, const char* file, int line) {
  if (mask != kWholeWarp) fault("a shuffle must name the whole warp");
  const auto* all = exchange(Operand<T>{value, {}}, "a shuffle", file, line);
  return all[unsigned(from) % kWarp].value;
}

inline int lane() { return int(thread_index() % kWarp); }

inline unsigned ballot(unsigned mask, bool vote, const char* file, int line) {
  if (mask != kWholeWarp) fault("a vote must name the whole warp");
  const auto* all = exchange(Operand<bool>{vote, {}}, "a vote", file, line);
  unsigned result = 0;
  for (unsigned i = 0; i < kWarp; ++i) result |= unsigned(all[i].value) << i;
  return result;
}

// Runs body() for every thread of every block.
inline cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body) {
  const size_t threads = size_t(block.x) * block.y * block.z;
  const bool possible = threads >= 1 && threads <= 1024 && threads % kWarp == 0 && grid.x >= 1 &&
                        grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
                        grid.z <= 65535 && shared_bytes <= kMostShared;
  if (!possible) return cudaErrorInvalidConfiguration;
  machine.body = std::move(body);
  machine.has_products = false;
  machine.shared_bytes = shared_bytes;
  void* dynamic_shared = nullptr;  // exactly as large as asked for: a byte more is a fault
  if (shared_bytes && posix_memalign(&dynamic_shared, kSharedPattern, shared_bytes) != 0) {
    return cudaErrorInvalidValue;
  }
  machine.dynamic_shared.reset(static_cast<char*>(dynamic_shared));
  gridDim = grid;
  blockDim = block;
  for (size_t b : in_order(size_t(grid.x) * grid.y * grid.z)) {
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block();
  }
  machine.shared.clear();
  machine.dynamic_shared.reset();
  return cudaSuccess;
}

}  // namespace simt

#define FASTCONV_SHARED(type, name, count) \
  type* name = ::simt::shared<type>(count, __FILE__, __LINE__)
#define FASTCONV_DYNAMIC_SHARED(name) \
  unsigned char* name = reinterpret_cast<unsigned char*>(::simt::machine.dynamic_shared.get())
#define FASTCONV_DYNAMIC_SHARED_ALIGNED(bytes, name)                                 \
  static_assert((bytes) <= ::simt::kSharedPattern, "more than the stand-in aligns"); \
  FASTCONV_DYNAMIC_SHARED(name)

#define FASTCONV_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FASTCONV_SITE) {
  simt::arrive(simt::machine.barrier, simt::machine.alive, "a barrier", file, line);
}
inline void __syncwarp(unsigned mask = simt::kWholeWarp, FASTCONV_SITE) {
  simt::ballot(mask, true, file, line);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, FASTCONV_SITE) {
  return simt::shuffle(mask, value, from, file, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, FASTCONV_SITE) {
  return simt::shuffle(mask, value, simt::lane() ^ with, file, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int by, FASTCONV_SITE) {
  const int from = simt::lane() + by;  // beyond the warp a lane gets its own
  return simt::shuffle(mask, value, from < 32 ? from : simt::lane(), file, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int by, FASTCONV_SITE) {
  const int from = simt::lane() - by;
  return simt::shuffle(mask, value, from >= 0 ? from : simt::lane(), file, line);
}
inline unsigned __ballot_sync(unsigned mask, bool vote, FASTCONV_SITE) {
  return simt::ballot(mask, vote, file, line);
}
inline bool __any_sync(unsigned mask, bool vote, FASTCONV_SITE) {
  return simt::ballot(mask, vote, file, line) != 0;
}
inline bool __all_sync(unsigned mask, bool vote, FASTCONV_SITE) {
  return simt::ballot(mask, vote, file, line) == simt::kWholeWarp;
}

template <typename T>
T atomicAdd(T* at, T value) {  // fibers never interrupt each other
  const T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
using std::max;
using std::min;

namespace fastconv {

template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t,
                   Args... args) {
  if (grid.x == 0) return cudaSuccess;
  return simt::run(grid, block, shared, [=] { kernel(Params(args)...); });
}

}  // namespace fastconv
