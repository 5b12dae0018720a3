// The tile with AVX-VNNI: vpdpbusd multiplies four bytes by four bytes in each of 8 lanes. With INTVIT_EVEX the same instruction
// of AVX-512 VL stands in for it, for tests on machines without AVX-VNNI.
#pragma once
#include <cpuid.h>
#include <immintrin.h>

#include "tile_blocks.h"

#define INTVIT_PATH "avxvnni"
enum { TILE_ROWS = 24, DEPTH = 4 };
using Row = uint8_t;
using Column = int8_t;

inline int64_t place_in_panel(int64_t k, int64_t c, int64_t depth) { return place_in_blocks<4>(k, c, depth); }
struct ThreadState {};

// In assembly, because gcc 12 copies the accumulators of the intrinsic through memory.
#ifdef INTVIT_EVEX
inline bool path_supported() { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl"); }
inline void dot(__m256i& sum, __m256i a, __m256i b) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }
#else
inline bool path_supported() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
}
inline void dot(__m256i& sum, __m256i a, __m256i b) { asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }
#endif

// ROWS x 16 columns: of 16 registers 12 accumulators, two of columns and a row.
template <int ROWS> struct Block {
    static __attribute__((noinline)) void run(const Row* a, int64_t depth, const Column* columns, int32_t* sums) {
        __m256i sum[ROWS][2];
        repeat<ROWS * 2>([&](auto i) INLINE { sum[i / 2][i % 2] = _mm256_setzero_si256(); });
        for (int64_t k = 0; k < depth; k += 4, columns += 64) {
            const __m256i b[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(columns)),
                                  _mm256_load_si256(reinterpret_cast<const __m256i*>(columns) + 1)};
            repeat<ROWS>([&](auto r) INLINE {
                int32_t four;
                memcpy(&four, a + r * depth + k, 4);
                const __m256i row = _mm256_set1_epi32(four);
                repeat<2>([&](auto g) INLINE { dot(sum[r][g], row, b[g]); });
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
