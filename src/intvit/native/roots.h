// floor(sqrt(v)) in integers.
#pragma once
#include <cstdint>

// Newton's iteration from above, from a power of two that is at least the root: it falls until it is the root.
inline int64_t integer_sqrt(int64_t v) {
    if (v <= 0) return 0;
    const int bits = 64 - __builtin_clzll(uint64_t(v));
    int64_t root = int64_t(1) << ((bits + 1) / 2);
    for (;;) {
        const int64_t next = (root + v / root) >> 1;
        if (next >= root) return root;
        root = next;
    }
}

inline int64_t floor_divide(int64_t a, int64_t b) {  // b > 0
    const int64_t q = a / b;
    return q - (a % b < 0);
}
