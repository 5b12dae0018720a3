// Rows of bytes: their maximum, and tables of 256 bytes.
#pragma once
#include "lanes.h"

inline int8_t row_maximum(const int8_t* x, int64_t n) {
    const Bytes least = spread(0x80);
    Bytes most = least;
    int64_t i = 0;
    for (; i + BYTES <= n; i += BYTES) most = larger(most, load_bytes(x + i, BYTES));
    if (i < n) most = larger(most, select(first_bytes(n - i), load_bytes(x + i, n - i), least));
    return largest(most);
}

// out[i] = table[x[i] ^ flipped]
inline void look_up(const uint8_t* x, int64_t n, uint8_t flipped, const uint8_t* table, uint8_t* out) {
    const ByteTable bytes(table);
    const Bytes turn = spread(flipped);
    int64_t i = 0;
    for (; i + BYTES <= n; i += BYTES) store_bytes(out + i, bytes.at(flip(load_bytes(x + i, BYTES), turn)), BYTES);
    if (i < n) store_bytes(out + i, bytes.at(flip(load_bytes(x + i, n - i), turn)), n - i);
}

// p[i] = table[maximum - x[i]], or 0 where mask, which may be null, is not 0. p has `room` entries, at least n; the others become
// 0. Returns the sum of p.
inline int64_t weigh_by_distance(const int8_t* x, const uint8_t* mask, int64_t n, int64_t room, const uint8_t* table, uint8_t* p) {
    const ByteTable weights(table);
    const Bytes least = spread(0x80), none = spread(0);
    const auto kept = [&](int64_t i, int64_t count) {
        const ByteMask there = first_bytes(count);
        return mask ? both(there, zero_bytes(load_bytes(mask + i, count))) : there;
    };
    Bytes most = least;
    for (int64_t i = 0; i < n; i += BYTES) {
        const int64_t count = std::min<int64_t>(n - i, BYTES);
        most = larger(most, select(kept(i, count), load_bytes(x + i, count), least));
    }
    const Bytes top = spread(uint8_t(largest(most)));
    ByteSum sum;
    int64_t i = 0;
    for (; i < n; i += BYTES) {
        const int64_t count = std::min<int64_t>(n - i, BYTES);
        const Bytes weight = select(kept(i, count), weights.at(subtract(top, load_bytes(x + i, count))), none);
        sum.add(weight);
        store_bytes(p + i, weight, std::min<int64_t>(room - i, BYTES));
    }
    for (; i < room; i++) p[i] = 0;
    return sum.total();
}
