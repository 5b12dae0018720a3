// floor(sqrt(v)) in integers.
#pragma once
#include <algorithm>
#include <cstdint>

// Least integers that are at least 32 * sqrt(v + 1), for v < 1024.
struct RootTable {
    uint16_t root[1024] = {};
    constexpr RootTable() {
        for (int v = 0, least = 1; v < 1024; v++) {
            while (least * least < 1024 * (v + 1)) least++;
            root[v] = uint16_t(least);
        }
    }
};
inline constexpr RootTable root_table;

// Two steps of Newton's from above. The bound that the nine or ten leading bits give is at most 1 + 1/200 times the root r, so
// that the first step ends within sqrt(2 r) of it and the second within 1. No loop: its exit would be guessed wrong.
inline int64_t integer_sqrt(int64_t v) {
    if (v <= 0) return 0;
    const int bits = 64 - __builtin_clzll(uint64_t(v)), places = std::max(0, bits - 9) / 2;
    int64_t root = (int64_t(root_table.root[v >> 2 * places]) << places >> 5) + 1;
    root = (root + v / root) >> 1;
    root = (root + v / root) >> 1;
    return root - (root * root > v);
}

inline int64_t floor_divide(int64_t a, int64_t b) {  // b > 0
    const int64_t q = a / b;
    return q - (a % b < 0);
}
