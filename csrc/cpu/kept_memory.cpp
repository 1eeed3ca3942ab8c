#include "cpu/kept_memory.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace fastconv {

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)

namespace {

constexpr size_t kHugePage = size_t(2) << 20;

// Memory at the beginning of a huge page, so that huge pages fill it. Asking for them is advice.
MemoryBlock* map(size_t bytes) {
  const size_t room = bytes + kHugePage;
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const start = static_cast<char*>(mapped);
  const size_t before = -reinterpret_cast<size_t>(start) % kHugePage, behind = kHugePage - before;
  if (before) munmap(start, before);
  if (behind) munmap(start + before + bytes, behind);
  madvise(start + before, bytes, MADV_HUGEPAGE);
  return new MemoryBlock{start + before, bytes};
}

void unmap(MemoryBlock* block) {
  munmap(block->begin, block->bytes);
  delete block;
}

class Keeper {
 public:
  MemoryBlock* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Whole pages, and coarse enough that sizes that are nearly the same share blocks.
    constexpr size_t kGrain = size_t(64) << 10;
    bytes = (bytes + kGrain - 1) / kGrain * kGrain;
    MemoryBlock* block = take_kept(bytes);
    if (!block) block = map(bytes);
    if (!block) {  // there may be room in what is kept
      keep_at_most(0);
      block = map(bytes);
    }
    if (!block) return nullptr;
    used_ += block->bytes;
    if (++taken_ % kLately == 0) {
      most_before_ = most_;
      most_ = 0;
    }
    most_ = most_ > used_ ? most_ : used_;
    keep_what_was_needed();
    return block;
  }

  void give_back(MemoryBlock* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_ -= block->bytes;
    kept_bytes_ += block->bytes;
    kept_.push_back(block);
    keep_what_was_needed();
  }

  size_t release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t released = kept_bytes_;
    keep_at_most(0);
    return released;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  // "Lately" is this many blocks taken, to twice as many: some training steps.
  static constexpr size_t kLately = 1024;

  // The smallest that is kept, if it is not much larger than what is asked for.
  MemoryBlock* take_kept(size_t bytes) {
    size_t best = kept_.size();
    for (size_t i = 0; i < kept_.size(); ++i) {
      const size_t size = kept_[i]->bytes;
      if (size < bytes || size > bytes + bytes / 4) continue;
      if (best == kept_.size() || size <= kept_[best]->bytes) best = i;
    }
    if (best == kept_.size()) return nullptr;
    MemoryBlock* block = kept_[best];
    kept_.erase(kept_.begin() + best);
    kept_bytes_ -= block->bytes;
    return block;
  }

  void keep_what_was_needed() {
    const size_t room = 2 * (most_ > most_before_ ? most_ : most_before_);
    keep_at_most(room - used_);
  }

  void keep_at_most(size_t bytes) {
    size_t gone = 0;
    for (; kept_bytes_ > bytes; ++gone) {
      kept_bytes_ -= kept_[gone]->bytes;
      unmap(kept_[gone]);
    }
    kept_.erase(kept_.begin(), kept_.begin() + gone);
  }

  std::mutex mutex_;
  std::vector<MemoryBlock*> kept_;  // the one that has been longest first
  size_t used_ = 0, kept_bytes_ = 0, taken_ = 0;
  size_t most_ = 0, most_before_ = 0;  // in use at once: of these kLately blocks, of those before
};

// Never destroyed: tensors may outlive every static object.
Keeper& keeper() {
  static Keeper* const only = new Keeper;
  return *only;
}

// A thread may hold the lock while another one forks.
[[maybe_unused]] const int registered =
    pthread_atfork([] { keeper().mutex().lock(); }, [] { keeper().mutex().unlock(); },
                   [] { keeper().mutex().unlock(); });

}  // namespace

bool keeps_memory() {
  static const bool wish = [] {
    const char* text = std::getenv("FASTCONV_KEEP_MEMORY");
    return !text || std::strcmp(text, "0") != 0;
  }();
  return wish;
}
MemoryBlock* take_memory(size_t bytes) { return keeper().take(bytes); }
void give_memory_back(MemoryBlock* block) { keeper().give_back(block); }
size_t release_kept_memory() { return keeper().release(); }

#else

bool keeps_memory() { return false; }
MemoryBlock* take_memory(size_t) { return nullptr; }
void give_memory_back(MemoryBlock*) {}
size_t release_kept_memory() { return 0; }

#endif

}  // namespace fastconv
