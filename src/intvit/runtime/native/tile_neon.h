// The tile with NEON's dot products: sdot multiplies four signed bytes by four signed bytes in each of 4 lanes.
#pragma once
#include <arm_neon.h>

#include "arm_features.h"
#include "tile_blocks.h"

#define INTVIT_PATH "neon"
enum { TILE_ROWS = 24, DEPTH = 4 };
using Row = int8_t;
using Column = int8_t;

inline bool path_supported() { return arm_has_dot_products(); }
struct ThreadState {};
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t depth) { return place_in_blocks<4>(k, c, depth); }

// ROWS x 16 columns: of 32 registers 24 accumulators, six rows of 16 bytes, and one of columns.
template <int ROWS> struct Block {
    static __attribute__((noinline)) void run(const Row* a, int64_t depth, const Column* columns, int32_t* sums) {
        int32x4_t sum[ROWS][4];
        repeat<ROWS * 4>([&](auto i) INLINE { sum[i / 4][i % 4] = vdupq_n_s32(0); });
        int64_t k = 0;
        for (; k + 16 <= depth; k += 16, columns += 256) {
            int8x16_t row[ROWS];
            repeat<ROWS>([&](auto r) INLINE { row[r] = vld1q_s8(a + r * depth + k); });
            repeat<16>([&](auto i) INLINE {
                const int8x16_t b = vld1q_s8(columns + 16 * i);
                repeat<ROWS>([&](auto r) INLINE { sum[r][i % 4] = vdotq_laneq_s32(sum[r][i % 4], b, row[r], i / 4); });
            });
        }
        for (; k < depth; k += 4, columns += 64)
            repeat<4>([&](auto g) INLINE {
                const int8x16_t b = vld1q_s8(columns + 16 * g);
                repeat<ROWS>([&](auto r) INLINE {
                    int32_t four;
                    memcpy(&four, a + r * depth + k, 4);
                    sum[r][g] = vdotq_s32(sum[r][g], b, vreinterpretq_s8_s32(vdupq_n_s32(four)));
                });
            });
        repeat<ROWS * 4>([&](auto i) INLINE { vst1q_s32(sums + i / 4 * COLUMNS + i % 4 * 4, sum[i / 4][i % 4]); });
    }
};

inline void tile(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums) {
    tile_in_blocks<Block, 6>(a, depth, rows, panel, groups, sums);
}
