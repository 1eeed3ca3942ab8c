// Memory of large results that is kept, when they are freed, for those to come.
//
// A training step makes the same results over and over. malloc returns large blocks to the system,
// and the first touch of each page of a new one costs more than many an op computes: a fifth of
// ZFNet's step (bench/NOTES.md). What is in use and what is kept are together at most twice what
// was in use at once lately; what has been kept longest goes first. With less room, blocks of one
// size would drive out those of another that are wanted next.
//
// FASTCONV_KEEP_MEMORY=0 turns it off. So do AddressSanitizer, which could not see a kernel write
// beyond such a block, and systems other than Linux.
#pragma once

#include <cstddef>

namespace fastconv {

struct MemoryBlock {
  void* begin;
  size_t bytes;
};

// A block of at least so many bytes, or nullptr where there is none to be had.
MemoryBlock* take_memory(size_t bytes);
void give_memory_back(MemoryBlock* block);

// Returns to the system what is kept; the number of bytes.
size_t release_kept_memory();

// Whether memory is kept at all.
bool keeps_memory();

}  // namespace fastconv
