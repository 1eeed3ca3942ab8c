// What the host side of the CPU ops shares.
#pragma once

#include <atomic>
#include <exception>
#include <new>
#if defined(FASTCONV_STD_THREADS)
#include <thread>
#include <vector>
#endif

#include "core/window.h"
#include "cpu/fork.h"
#include "cpu/isa.h"
#include "glue/dispatch.h"
#include "glue/random.h"

namespace fastconv {

// The number that a random op draws from.
inline uint64_t seed_of(const char* op, const Tensor& seed) {
  check_seed(op, seed);
  return uint64_t(*data<int64_t>(seed));
}

// FASTCONV_IMPL(m, max_pool2d) registers the function max_pool2d for the op of that name, with
// errors for want of memory that bear the name as all others do.
template <class Name, auto function>
struct Entry;
template <class Name, class Result, class... Args, Result (*function)(Args...)>
struct Entry<Name, function> {
  static Result call(Args... args) {
    try {
      return function(args...);
    } catch (const NoMemory& error) {
      fail(Name::text(), error.what());
    } catch (const std::bad_alloc&) {
      fail(Name::text(), "not enough memory for the kernel's scratch space");
    }
  }
};
#define FASTCONV_IMPL(m, op)                                       \
  do {                                                             \
    struct Name {                                                  \
      static const char* text() { return #op; }                    \
    };                                                             \
    m.impl(#op, TORCH_BOX((&::fastconv::Entry<Name, &op>::call))); \
  } while (false)

// body(begin, end) over parts of [0, count), each of `grain` units at least.
#if defined(FASTCONV_STD_THREADS)
// For ThreadSanitizer, which cannot see how OpenMP's threads wait for each other
// (tests/sanitize.sh).
template <class F>
void for_parts_of(int64_t count, int64_t /*grain*/, const F& body) {
  static thread_local bool inside = false;
  if (inside || count <= 1) return body(0, count);
  constexpr int64_t kThreads = 4;
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < kThreads; ++i) {
    const int64_t begin = count * i / kThreads, end = count * (i + 1) / kThreads;
    if (begin == end) continue;
    threads.emplace_back([&body, begin, end] {
      inside = true;
      body(begin, end);
    });
  }
  for (std::thread& thread : threads) thread.join();
}
#else
template <class F>
void for_parts_of(int64_t count, int64_t grain, const F& body) {
  if (forked_from_threads()) return body(0, count);
  torch::stable::parallel_for(0, count, grain, body);
}
#endif

// Splits [0, count) over torch's threads; a unit costs about `cost` element operations. The first
// exception of a thread comes out as it was thrown: torch would keep no more than that there was
// one.
template <class F>
void parallel_over(int64_t count, int64_t cost, const F& body) {
  constexpr int64_t kCostWorthAThread = 32768;
  const int64_t grain = cost >= kCostWorthAThread ? 1 : kCostWorthAThread / (cost > 0 ? cost : 1);
  if (count <= 0) return;
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  for_parts_of(count, grain, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

// Units of a pool's kernel: rows of images in channels_last, of `rows` each, or whole maps.
inline int64_t units_of(const Pool2d& p, int64_t rows) {
  return p.batch * (p.channels_last ? rows : p.channels);
}

// A pool whose kernels lay the rows of a contiguous map out in phases (cpu/rows.h): where strides
// or windows are so large that a row would take far more room than it has elements, each map is
// taken as an image of one channel in channels_last instead, whose kernels look at single elements.
// The order of the sums is the same.
inline Pool2d without_long_rows(Pool2d p) {
  constexpr int64_t kLanes = 16, kLong = 4096;
  const int64_t padded =
      max_of(p.w.padding + p.w.input, (p.w.output - 1) * p.w.stride + p.w.kernel);
  if (p.channels_last || padded + kLanes * p.w.stride <= kLong + 8 * p.w.input) return p;
  p.batch *= p.channels;
  p.channels = 1;
  p.channels_last = true;
  return p;
}

}  // namespace fastconv
