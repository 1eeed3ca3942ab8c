// Whether OpenMP can be used: after fork() it waits for ever for threads that were not copied.
#pragma once

namespace fastconv {

// True in a process that was forked from one with several threads. Loops there run on one thread.
bool forked_from_threads();

}  // namespace fastconv
