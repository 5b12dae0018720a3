// The inner product of the library: a tile of at most TILE_ROWS x 64 accumulators, uint8 rows times packed int8 columns.
//
//     sums[r][c] = sum over k of a[r][k] * b[c][k]
//
// Every path has the same operands. Signed activations come as x + 128 (see packed.h), because the instructions that
// multiply bytes take one unsigned and one signed operand. Sums wrap modulo 2^32.
#pragma once
#include <cstdint>
#include <initializer_list>

enum { COLUMNS = 64 };  // of a panel of packed columns: bytes [depth / 4][64][4]

#if defined(__AMX_INT8__)
#include "tile_amx.h"
#elif defined(__AVX512VNNI__)
#include "tile_vnni.h"
#elif defined(__AVX2__)
#include "tile_avx2.h"
#else
#include "tile_scalar.h"
#endif
