// The inner product of the library: a tile of at most TILE_ROWS x 64 accumulators, rows times packed columns.
//
//     sums[r][c] = sum over k of a[r][k] * b[c][k]
//
// Every path has the same interface, in a file tile_NAME.h, which gives
//     Row, Column       types of the operands; a Row holds x + zero_point(x is signed), see packed.h, because instructions that
//                       multiply bytes want one or both of them signed
//     TILE_ROWS, DEPTH  rows of a tile; the depth is padded to a multiple of DEPTH
//     place_in_panel    where a panel of 64 columns of padded depth `depth` holds entry k of column c
//     tile(a, depth, rows, panel, groups, sums)   groups: of 16 columns, 1 to 4; the others of `sums` are left alone
//     INTVIT_PATH, path_supported()    its name, and whether this machine runs it
//     ThreadState       what a thread needs to call `tile`
// Sums wrap modulo 2^32.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "path.h"

enum { COLUMNS = 64 };  // of a panel of packed columns

#include INTVIT_TILE

#if !defined(__AMX_INT8__)
// The same as `tile`, and work(TILE_ROWS) before it. The work is what is left to do on an earlier tile; the path that
// multiplies beside the processor's other instructions does both at once, a few rows at a time.
template <class Work>
inline void tile_beside(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums, Work&& work) {
    work(TILE_ROWS);
    tile(a, depth, rows, panel, groups, sums);
}

inline void prefetch_beside(const Column*, int64_t) {}  // these tiles are slow enough for what the processor prefetches
#endif
