// The tile with AVX2: vpmaddwd multiplies pairs of int16, exactly. Rows and columns are widened once, when they are packed:
// widening in the tile costs more than the memory. vpmaddubsw would take bytes, but saturates its int16 sums.
#pragma once
#include <immintrin.h>

#include "tile_blocks.h"

#define INTVIT_PATH "avx2"
enum { TILE_ROWS = 24, DEPTH = 2 };
using Row = int16_t;
using Column = int16_t;

inline bool path_supported() { return __builtin_cpu_supports("avx2"); }
struct ThreadState {};
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t depth) { return place_in_blocks<2>(k, c, depth); }

// ROWS x 16 columns: of 16 registers 12 accumulators, two of columns, a row and a product.
template <int ROWS> struct Block {
    static __attribute__((noinline)) void run(const Row* a, int64_t depth, const Column* columns, int32_t* sums) {
        __m256i sum[ROWS][2];
        repeat<ROWS * 2>([&](auto i) INLINE { sum[i / 2][i % 2] = _mm256_setzero_si256(); });
        for (int64_t k = 0; k < depth; k += 2, columns += 32) {
            const __m256i b[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(columns)),
                                  _mm256_load_si256(reinterpret_cast<const __m256i*>(columns) + 1)};
            repeat<ROWS>([&](auto r) INLINE {
                int32_t two;
                memcpy(&two, a + r * depth + k, 4);
                const __m256i row = _mm256_set1_epi32(two);
                repeat<2>([&](auto g) INLINE { sum[r][g] = _mm256_add_epi32(sum[r][g], _mm256_madd_epi16(row, b[g])); });
            });
        }
        repeat<ROWS * 2>([&](auto i) INLINE {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i / 2 * COLUMNS) + i % 2, sum[i / 2][i % 2]);
        });
    }
};

inline void tile(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums) {
    tile_in_blocks<Block, 6>(a, depth, rows, panel, groups, sums);
}
