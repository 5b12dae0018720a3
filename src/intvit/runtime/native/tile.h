// The inner product of the library: a tile of at most TILE_ROWS x 64 accumulators, uint8 rows times packed int8 columns.
//
//     sums[r][c] = sum over k of a[r][k] * b[c][k]
//
// Every path has the same operands. Signed activations come as x + 128 (see packed.h), because the instructions that
// multiply bytes take one unsigned and one signed operand. Sums wrap modulo 2^32.
#pragma once
#include <cstdint>
#include <initializer_list>

enum { COLUMNS = 64 };  // of a panel of packed columns

// Where a panel holds byte k of column c: [depth / 4][64][4], or, as AMX loads them, [depth / 64][64 / 16][64 / 4][16][4].
#if defined(__AMX_INT8__)
inline int64_t place_in_panel(int64_t k, int64_t c) {
    return k / 64 * 4096 + c / 16 * 1024 + k % 64 / 4 * 64 + c % 16 * 4 + k % 4;
}
#else
inline int64_t place_in_panel(int64_t k, int64_t c) { return k / 4 * 256 + c * 4 + k % 4; }
#endif

#if defined(__AMX_INT8__)
#include "tile_amx.h"
#elif defined(__AVX512VNNI__)
#include "tile_vnni.h"
#elif defined(__AVX2__)
#include "tile_avx2.h"
#else
#include "tile_scalar.h"
#endif

#if !defined(__AMX_INT8__)
// The same as `tile`, and work(TILE_ROWS) before it. The work is what is left to do on an earlier tile; the path that
// multiplies beside the processor's other instructions does both at once, a few rows at a time.
template <class Work>
inline void tile_beside(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums,
                        Work&& work) {
    work(TILE_ROWS);
    tile(a, depth, rows, panel, groups, sums);
}

inline void prefetch_beside(const int8_t*, int64_t) {}  // these tiles are slow enough for what the processor prefetches
#endif
