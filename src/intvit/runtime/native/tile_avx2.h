// The tile with AVX2. Bytes are widened to int16 and multiplied in pairs by vpmaddwd, which is exact; vpmaddubsw would
// saturate its int16 sums.
#pragma once
#include <cstring>
#include <immintrin.h>

#define INTVIT_PATH "avx2"
enum { TILE_ROWS = 4, DEPTH = 4 };

inline bool path_supported() { return __builtin_cpu_supports("avx2"); }
struct ThreadState {};  // what a thread needs to call `tile`

// Sixteen columns: each accumulator holds two partial sums for each of 4 columns. ROWS * 4 of them and the columns fit 16
// registers for two rows.
template <int ROWS> inline void tile_of(const uint8_t* a, int64_t depth, const int8_t* columns, int32_t* sums) {
    __m256i sum[ROWS][4];
#pragma GCC unroll 2
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) sum[r][g] = _mm256_setzero_si256();
    for (int64_t k = 0; k < depth; k += 4, columns += 4 * COLUMNS) {
        __m256i row[ROWS];
#pragma GCC unroll 2
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, a + r * depth + k, 4);
            row[r] = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
        }
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            const __m256i b = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(columns) + g));
#pragma GCC unroll 2
            for (int r = 0; r < ROWS; r++) sum[r][g] = _mm256_add_epi32(sum[r][g], _mm256_madd_epi16(row[r], b));
        }
    }
#pragma GCC unroll 2
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int g = 0; g < 2; g++) {  // hadd joins neighbours within 128 bits: columns 0 1 4 5 | 2 3 6 7
            const __m256i pairs = _mm256_hadd_epi32(sum[r][2 * g], sum[r][2 * g + 1]);
            const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xD8);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * COLUMNS + 8 * g), ordered);
        }
}

inline void tile(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums) {
    for (int g = 0; g < groups; g++) {
        int r = 0;
        for (; r + 2 <= rows; r += 2) tile_of<2>(a + r * depth, depth, panel + 64 * g, sums + r * COLUMNS + 16 * g);
        if (r < rows) tile_of<1>(a + r * depth, depth, panel + 64 * g, sums + r * COLUMNS + 16 * g);
    }
}
