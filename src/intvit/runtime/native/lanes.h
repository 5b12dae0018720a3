// The small vector type that everything but the product is written over, once for all instruction sets. A file
// lanes_NAME.h for each of them gives the types and functions below; lanes_scalar.h is their definition.
//
// Lanes: sixteen int32.
//     load(int32*), load(T*, count), store(T*, x, count)   T: of 8 or 16 bits; zeros beyond `count`, which is at least 1
//     zero(), spread_32(x), add(a, b), multiply(a, b), shift_left(x, places)      sums and products wrap
//     keep_larger(x, index, most, best)                    where x > most: most = x, best = index
//     multiply_shift<TWO>(x, y, m, low, high)              clamp((x * m.x [+ y * m.y] + m.half) >> m.shift)
//     multiply_shift_fitting<TWO>(x, y, m)                 the same where every result fits int32
//     multiply_shift_high(x, m)                            the same of one product where every shift is at least 32, too
//     store_row(out, four Lanes, count, low, high)         64 columns, saturated to the type and clamped
//     EPILOGUE_ROWS                                        rows that are best worked on at once
// Normalizer(factor, offset, places), normalize(x, n, m)   multiply_shift of v = (x * factor + offset) >> places, fitting int32
// Scale(factor, places, low, high), scale(x, s)            clamp((x * factor + 2^(places-1)) >> places), |factor| < 2^53
// Words: 32 int16.
//     load_words(T*, count), multiply(x, int16*)
//     RowSums: add(x), sum(), squares()                    of at most 2^14 values
// Bytes: BYTES of them.
//     load_bytes(p, count), store_bytes(p, x, count), spread(byte), flip(x, y), larger(x, y) signed, subtract(x, y)
//     ByteMask: first_bytes(count), zero_bytes(x), both(a, b), select(mask, yes, no)
//     ByteTable(table of 256).at(x), largest(x) signed, ByteSum: add(x), total()
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "path.h"

enum { LANES = 16 };

// Per channel, sixteen at a time. Products are 64 bits wide. The even and the odd lanes stand apart, for vector products take
// every other lane.
struct alignas(64) Multipliers {
    int64_t x[2][8], y[2][8], shift[2][8], half[2][8];
    int32_t shift_of_high[16];  // of the product's upper half, in the order of the lanes

    void set(int lane, int64_t multiplier, int64_t multiplier_y, int64_t places) {
        x[lane % 2][lane / 2] = multiplier;
        y[lane % 2][lane / 2] = multiplier_y;
        shift[lane % 2][lane / 2] = places;
        half[lane % 2][lane / 2] = int64_t(1) << (places - 1);
        shift_of_high[lane] = int32_t(places - 32);
    }
};

#include INTVIT_LANES
