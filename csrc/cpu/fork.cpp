#include "cpu/fork.h"

#if defined(__linux__)
#include <dirent.h>
#include <pthread.h>
#endif

namespace fastconv {

static bool forked = false;

bool forked_from_threads() { return forked; }

#if defined(__linux__)  // other systems' OpenMP sees to it itself
static bool has_threads = false;

static void before_fork() {
  int threads = 0;
  if (DIR* tasks = opendir("/proc/self/task")) {
    while (const dirent* entry = readdir(tasks)) threads += entry->d_name[0] != '.';
    closedir(tasks);
  }
  has_threads = threads != 1;
}
static void in_child() { forked = forked || has_threads; }

[[maybe_unused]] static const int registered = pthread_atfork(before_fork, nullptr, in_child);
#endif

}  // namespace fastconv
