// The tile with AVX-512 VNNI: vpdpbusd multiplies four bytes by four bytes in each of 16 lanes.
#pragma once
#include <immintrin.h>

#include "tile_blocks.h"

#define INTVIT_PATH "avx512"
enum { TILE_ROWS = 6, DEPTH = 4 };  // 6 x 4 accumulators, 4 columns and a row: 29 of 32 registers
using Row = uint8_t;
using Column = int8_t;

inline bool path_supported() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
struct ThreadState {};
// [depth / 4][64][4]
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t) { return k / 4 * 256 + c * 4 + k % 4; }

// In assembly, because gcc 12 copies the accumulators of the intrinsic through memory.
inline void dot(__m512i& sum, __m512i a, __m512i b) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

template <int ROWS, int GROUPS>
__attribute__((noinline)) void tile_of(const uint8_t* a, int64_t depth, const int8_t* panel, int32_t* sums) {
    __m512i sum[ROWS][GROUPS];
    repeat<ROWS * GROUPS>([&](auto i) INLINE { sum[i / GROUPS][i % GROUPS] = _mm512_setzero_si512(); });
    for (int64_t k = 0; k < depth; k += 4, panel += 4 * COLUMNS) {
        __m512i b[GROUPS];
        repeat<GROUPS>([&](auto g) INLINE { b[g] = _mm512_load_si512(panel + 64 * g); });
        repeat<ROWS>([&](auto r) INLINE {
            int32_t four;
            memcpy(&four, a + r * depth + k, 4);
            const __m512i row = _mm512_set1_epi32(four);
            repeat<GROUPS>([&](auto g) INLINE { dot(sum[r][g], row, b[g]); });
        });
    }
    repeat<ROWS * GROUPS>([&](auto i) INLINE {
        _mm512_store_si512(sums + i / GROUPS * COLUMNS + 16 * (i % GROUPS), sum[i / GROUPS][i % GROUPS]);
    });
}

template <int GROUPS> inline void tile_groups(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int32_t* sums) {
    switch (rows) {
        case 1: return tile_of<1, GROUPS>(a, depth, panel, sums);
        case 2: return tile_of<2, GROUPS>(a, depth, panel, sums);
        case 3: return tile_of<3, GROUPS>(a, depth, panel, sums);
        case 4: return tile_of<4, GROUPS>(a, depth, panel, sums);
        case 5: return tile_of<5, GROUPS>(a, depth, panel, sums);
        default: return tile_of<6, GROUPS>(a, depth, panel, sums);
    }
}

inline void tile(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums) {
    switch (groups) {
        case 1: return tile_groups<1>(a, depth, rows, panel, sums);
        case 2: return tile_groups<2>(a, depth, rows, panel, sums);
        case 3: return tile_groups<3>(a, depth, rows, panel, sums);
        default: return tile_groups<4>(a, depth, rows, panel, sums);
    }
}
