// Panels of small blocks, for tiles that multiply GROUP entries of the depth in each 32-bit lane (or 64-bit one): 16 columns lie
// together, [64 / 16][depth / GROUP][16][GROUP].
#pragma once

#define INLINE __attribute__((always_inline))

// body(0), .., body(N - 1) with constants, not a loop: only then do the accumulators stay in registers.
template <int N, class Body> inline INLINE void repeat(const Body& body) {
    if constexpr (N > 1) repeat<N - 1>(body);
    body(std::integral_constant<int, N - 1>());
}

template <int GROUP> inline int64_t place_in_blocks(int64_t k, int64_t c, int64_t depth) {
    return c / 16 * depth * 16 + k / GROUP * 16 * GROUP + c % 16 * GROUP + k % GROUP;
}

// For tiles of at most MOST rows at once by 16 columns: Block<ROWS>::run(rows, depth, columns, sums), whose columns stay in the
// first-level cache for all rows.
template <template <int> class Block, int MOST, class Row, class Column>
inline void tile_in_blocks(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums) {
    for (int g = 0; g < groups; g++, panel += 16 * depth, sums += 16) {
        int r = 0;
        for (; r + MOST <= rows; r += MOST) Block<MOST>::run(a + r * depth, depth, panel, sums + r * 64);
        repeat<MOST - 1>([&](auto i) INLINE {
            if (rows - r == i + 1) Block<i + 1>::run(a + r * depth, depth, panel, sums + r * 64);
        });
    }
}
