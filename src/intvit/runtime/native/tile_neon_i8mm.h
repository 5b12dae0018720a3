// The tile with NEON's matrix products: usmmla multiplies two rows of eight unsigned bytes by two columns of eight signed ones.
#pragma once
#include <arm_neon.h>

#include "arm_features.h"
#include "tile_blocks.h"

#define INTVIT_PATH "neon-i8mm"
enum { TILE_ROWS = 24, DEPTH = 8 };
using Row = uint8_t;
using Column = int8_t;

inline bool path_supported() { return arm_has_dot_products() && arm_has_matrix_products(); }
struct ThreadState {};
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t depth) { return place_in_blocks<8>(k, c, depth); }

// ROWS x 16 columns, two rows by two columns in each of 24 accumulators. An odd number of rows counts as one more, which the
// buffers have room for.
template <int ROWS> struct Block {
    static __attribute__((noinline)) void run(const Row* a, int64_t depth, const Column* columns, int32_t* sums) {
        enum { PAIRS = (ROWS + 1) / 2 };
        int32x4_t sum[PAIRS][8];
        repeat<PAIRS * 8>([&](auto i) INLINE { sum[i / 8][i % 8] = vdupq_n_s32(0); });
        for (int64_t k = 0; k < depth; k += 8, columns += 128) {
            uint8x16_t row[PAIRS];
            repeat<PAIRS>([&](auto p) INLINE {
                const Row* first = a + 2 * p * depth + k;
                row[p] = vcombine_u8(vld1_u8(first), vld1_u8(first + depth));
            });
            repeat<8>([&](auto g) INLINE {
                const int8x16_t b = vld1q_s8(columns + 16 * g);
                repeat<PAIRS>([&](auto p) INLINE { sum[p][g] = vusmmlaq_s32(sum[p][g], row[p], b); });
            });
        }
        repeat<PAIRS * 4>([&](auto i) INLINE {
            int32_t* to = sums + i / 4 * 2 * COLUMNS + i % 4 * 4;
            const int64x2_t left = vreinterpretq_s64_s32(sum[i / 4][i % 4 * 2]), right = vreinterpretq_s64_s32(sum[i / 4][i % 4 * 2 + 1]);
            vst1q_s32(to, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
            vst1q_s32(to + COLUMNS, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
        });
    }
};

inline void tile(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums) {
    tile_in_blocks<Block, 6>(a, depth, rows, panel, groups, sums);
}
