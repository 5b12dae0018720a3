// The vectors of lanes.h with NEON of 64-bit Arm, four registers each.
#pragma once
#include <arm_neon.h>

enum { EPILOGUE_ROWS = 1, BYTES = 16 };

struct Lanes {
    int32x4_t part[4];
};

template <class Function> inline Lanes each_part(const Function& function) {
    return {{function(0), function(1), function(2), function(3)}};
}
inline Lanes load(const int32_t* p) {
    return each_part([&](int i) { return vld1q_s32(p + 4 * i); });
}
inline Lanes widened(int16x8_t low, int16x8_t high) {
    return {{vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)}};
}
inline Lanes load_16(const int16_t* p) { return widened(vld1q_s16(p), vld1q_s16(p + 8)); }
inline Lanes load_16(const int8_t* p) {
    const int8x16_t x = vld1q_s8(p);
    return widened(vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
}
inline Lanes load_16(const uint16_t* p) {
    const uint16x8_t low = vld1q_u16(p), high = vld1q_u16(p + 8);
    const uint32x4_t parts[4] = {vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)};
    return each_part([&](int i) { return vreinterpretq_s32_u32(parts[i]); });
}
inline Lanes load_16(const uint8_t* p) {
    const uint8x16_t x = vld1q_u8(p);
    return widened(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_high_u8(x)));
}
template <class T> inline Lanes load(const T* p, int count) {
    if (count >= LANES) return load_16(p);
    T copy[LANES] = {};
    memcpy(copy, p, count * sizeof(T));
    return load_16(copy);
}
template <class T> inline void store(T* p, const Lanes& x, int count) {
    int32_t lane[LANES];
    for (int i = 0; i < 4; i++) vst1q_s32(lane + 4 * i, x.part[i]);
    for (int i = 0; i < std::min<int>(count, LANES); i++) p[i] = T(lane[i]);
}

inline Lanes zero() {
    return each_part([](int) { return vdupq_n_s32(0); });
}
inline Lanes add(const Lanes& a, const Lanes& b) {
    return each_part([&](int i) { return vaddq_s32(a.part[i], b.part[i]); });
}
inline Lanes spread_32(int32_t value) {
    return each_part([&](int) { return vdupq_n_s32(value); });
}
inline Lanes multiply(const Lanes& a, const Lanes& b) {
    return each_part([&](int i) { return vmulq_s32(a.part[i], b.part[i]); });
}
inline void keep_larger(const Lanes& x, const Lanes& index, Lanes& most, Lanes& best) {
    for (int i = 0; i < 4; i++) {
        best.part[i] = vbslq_s32(vcgtq_s32(x.part[i], most.part[i]), index.part[i], best.part[i]);
        most.part[i] = vmaxq_s32(most.part[i], x.part[i]);
    }
}
inline Lanes shift_left(const Lanes& x, const Lanes& places) {
    return each_part([&](int i) { return vshlq_s32(x.part[i], places.part[i]); });
}

// Products of four lanes, 64 bits wide.
struct Products {
    int64x2_t low, high;
};
inline int32x4_t low_halves(const int64_t* p) {
    return vuzp1q_s32(vreinterpretq_s32_s64(vld1q_s64(p)), vreinterpretq_s32_s64(vld1q_s64(p + 2)));
}
inline Products add_products(const Products& sum, int32x4_t x, int32x4_t y) {
    return {vmlal_s32(sum.low, vget_low_s32(x), vget_low_s32(y)), vmlal_high_s32(sum.high, x, y)};
}
inline Products shift_right(const Products& x, int64x2_t low, int64x2_t high) {
    return {vshlq_s64(x.low, vnegq_s64(low)), vshlq_s64(x.high, vnegq_s64(high))};
}
inline int32x4_t narrowed(const Products& x) { return vmovn_high_s64(vmovn_s64(x.low), x.high); }
inline int32x4_t saturated(const Products& x) { return vqmovn_high_s64(vqmovn_s64(x.low), x.high); }

// The even or the odd ones of eight lanes, whose first four multipliers stand at 4 * eight.
template <bool TWO> inline Products products(int32x4_t x, int32x4_t y, const Multipliers& m, int odd, int eight) {
    const int first = 4 * eight;
    Products sum = {vld1q_s64(m.half[odd] + first), vld1q_s64(m.half[odd] + first + 2)};
    sum = add_products(sum, x, low_halves(m.x[odd] + first));
    return TWO ? add_products(sum, y, low_halves(m.y[odd] + first)) : sum;
}
template <bool TWO> inline Products shifted(int32x4_t x, int32x4_t y, const Multipliers& m, int odd, int eight) {
    const int64_t* shift = m.shift[odd] + 4 * eight;
    return shift_right(products<TWO>(x, y, m, odd, eight), vld1q_s64(shift), vld1q_s64(shift + 2));
}
// function(lanes of x, lanes of y, odd, eight) -> four results, for the even and the odd lanes of each eight.
template <class Function> inline Lanes by_halves(const Lanes& x, const Lanes& y, const Function& function) {
    Lanes result;
    for (int i = 0; i < 2; i++) {
        const int32x4_t a = x.part[2 * i], b = x.part[2 * i + 1], c = y.part[2 * i], d = y.part[2 * i + 1];
        const int32x4_t even = function(vuzp1q_s32(a, b), vuzp1q_s32(c, d), 0, i), odd = function(vuzp2q_s32(a, b), vuzp2q_s32(c, d), 1, i);
        result.part[2 * i] = vzip1q_s32(even, odd);
        result.part[2 * i + 1] = vzip2q_s32(even, odd);
    }
    return result;
}

// The limits fit int32, so that saturating to it first changes nothing.
template <bool TWO>
inline Lanes multiply_shift(const Lanes& x, const Lanes& y, const Multipliers& m, int64_t low, int64_t high) {
    const int32x4_t least = vdupq_n_s32(int32_t(low)), most = vdupq_n_s32(int32_t(high));
    return by_halves(x, y, [&](int32x4_t x, int32x4_t y, int odd, int eight) {
        return vminq_s32(vmaxq_s32(saturated(shifted<TWO>(x, y, m, odd, eight)), least), most);
    });
}
template <bool TWO> inline Lanes multiply_shift_fitting(const Lanes& x, const Lanes& y, const Multipliers& m) {
    return by_halves(x, y, [&](int32x4_t x, int32x4_t y, int odd, int eight) { return narrowed(shifted<TWO>(x, y, m, odd, eight)); });
}
inline Lanes multiply_shift_high(const Lanes& x, const Multipliers& m) {
    const Lanes high = by_halves(x, x, [&](int32x4_t x, int32x4_t y, int odd, int eight) {
        const Products p = products<false>(x, y, m, odd, eight);
        return vuzp2q_s32(vreinterpretq_s32_s64(p.low), vreinterpretq_s32_s64(p.high));
    });
    return each_part([&](int i) { return vshlq_s32(high.part[i], vnegq_s32(vld1q_s32(m.shift_of_high + 4 * i))); });
}

inline int16x8_t words_of(int32x4_t a, int32x4_t b) { return vqmovn_high_s32(vqmovn_s32(a), b); }
template <class Out> inline void store_row(Out* p, const Lanes* x, int count, int32_t low, int32_t high) {
    for (; count > 0; count -= LANES, p += LANES, x++) {
        Out copy[LANES];
        Out* const to = count >= LANES ? p : copy;
        const int16x8_t a = words_of(x->part[0], x->part[1]), b = words_of(x->part[2], x->part[3]);
        if constexpr (sizeof(Out) == 2) {
            const int16x8_t least = vdupq_n_s16(int16_t(low)), most = vdupq_n_s16(int16_t(high));
            vst1q_s16(to, vminq_s16(vmaxq_s16(a, least), most));
            vst1q_s16(to + 8, vminq_s16(vmaxq_s16(b, least), most));
        } else if constexpr (std::is_signed_v<Out>) {
            const int8x16_t row = vqmovn_high_s16(vqmovn_s16(a), b);
            vst1q_s8(to, vminq_s8(vmaxq_s8(row, vdupq_n_s8(int8_t(low))), vdupq_n_s8(int8_t(high))));
        } else {
            const uint8x16_t row = vqmovun_high_s16(vqmovun_s16(a), b);
            vst1q_u8(to, vminq_u8(vmaxq_u8(row, vdupq_n_u8(uint8_t(low))), vdupq_n_u8(uint8_t(high))));
        }
        if (to == copy) memcpy(p, copy, count * sizeof(Out));
    }
}

struct Normalizer {
    int64_t factor, offset, places;
};
inline Lanes normalize(const Lanes& x, const Normalizer& n, const Multipliers& m) {
    const int32x4_t factor = vdupq_n_s32(int32_t(n.factor));
    const int64x2_t offset = vdupq_n_s64(n.offset), places = vdupq_n_s64(n.places);
    return by_halves(x, x, [&](int32x4_t x, int32x4_t, int odd, int eight) {
        const int32x4_t v = narrowed(shift_right(add_products({offset, offset}, x, factor), places, places));
        return narrowed(shifted<false>(v, v, m, odd, eight));
    });
}

// The factor as high * 2^32 + low, both of which fit int32.
struct Scale {
    int64_t factor, places, low, high;
};
inline Lanes scale(const Lanes& x, const Scale& s) {
    const int32x2_t low = vdup_n_s32(int32_t(s.factor)), high = vdup_n_s32(int32_t((s.factor - int32_t(s.factor)) >> 32));
    const int64x2_t half = vdupq_n_s64(int64_t(1) << (s.places - 1)), places = vdupq_n_s64(s.places);
    const auto product = [&](int32x2_t x) {
        return vaddq_s64(vaddq_s64(vmull_s32(x, low), vshlq_n_s64(vmull_s32(x, high), 32)), half);
    };
    return each_part([&](int i) {
        const Products p = {product(vget_low_s32(x.part[i])), product(vget_high_s32(x.part[i]))};
        const int32x4_t v = saturated(shift_right(p, places, places));
        return vminq_s32(vmaxq_s32(v, vdupq_n_s32(int32_t(s.low))), vdupq_n_s32(int32_t(s.high)));
    });
}

struct Words {
    int16x8_t part[4];
};
inline int16x8_t load_8(const int16_t* p) { return vld1q_s16(p); }
inline int16x8_t load_8(const int8_t* p) { return vmovl_s8(vld1_s8(p)); }
inline int16x8_t load_8(const uint8_t* p) { return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p))); }
template <class T> inline Words load_words(const T* p, int64_t count) {
    T copy[32] = {};
    if (count < 32) p = static_cast<const T*>(memcpy(copy, p, count * sizeof(T)));
    return {{load_8(p), load_8(p + 8), load_8(p + 16), load_8(p + 24)}};
}
inline Words multiply(Words x, const int16_t* y) {
    for (int i = 0; i < 4; i++) x.part[i] = vmulq_s16(x.part[i], vld1q_s16(y + 8 * i));
    return x;
}
class RowSums {
public:
    void add(const Words& x) {
        for (const int16x8_t& words : x.part) {
            first = vpadalq_s16(first, words);
            second = vpadalq_s32(second, vmull_s16(vget_low_s16(words), vget_low_s16(words)));
            second = vpadalq_s32(second, vmull_high_s16(words, words));
        }
    }
    int64_t sum() const { return vaddlvq_s32(first); }
    int64_t squares() const { return vaddvq_s64(second); }

private:
    int32x4_t first = vdupq_n_s32(0);
    int64x2_t second = vdupq_n_s64(0);
};

using Bytes = uint8x16_t;
using ByteMask = uint8x16_t;  // of 0 and 255

inline Bytes load_bytes(const void* p, int64_t count) {
    uint8_t copy[BYTES] = {};
    return vld1q_u8(static_cast<const uint8_t*>(count >= BYTES ? p : memcpy(copy, p, count)));
}
inline void store_bytes(void* p, Bytes x, int64_t count) {
    if (count >= BYTES) return vst1q_u8(static_cast<uint8_t*>(p), x);
    uint8_t copy[BYTES];
    vst1q_u8(copy, x);
    memcpy(p, copy, count);
}
inline Bytes spread(uint8_t value) { return vdupq_n_u8(value); }
inline Bytes flip(Bytes x, Bytes y) { return veorq_u8(x, y); }
inline Bytes larger(Bytes x, Bytes y) { return vreinterpretq_u8_s8(vmaxq_s8(vreinterpretq_s8_u8(x), vreinterpretq_s8_u8(y))); }
inline Bytes subtract(Bytes x, Bytes y) { return vsubq_u8(x, y); }
inline ByteMask first_bytes(int64_t count) {
    static const uint8_t places[BYTES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vcltq_u8(vld1q_u8(places), vdupq_n_u8(uint8_t(std::min<int64_t>(count, BYTES))));
}
inline ByteMask zero_bytes(Bytes x) { return vceqzq_u8(x); }
inline ByteMask both(ByteMask a, ByteMask b) { return vandq_u8(a, b); }
inline Bytes select(ByteMask mask, Bytes yes, Bytes no) { return vbslq_u8(mask, yes, no); }
inline int8_t largest(Bytes x) { return vmaxvq_s8(vreinterpretq_s8_u8(x)); }

// tbl reads 64 entries, and tbx leaves what it does not find.
struct ByteTable {
    uint8x16x4_t part[4];
    explicit ByteTable(const uint8_t* table) {
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) part[i].val[j] = vld1q_u8(table + 64 * i + 16 * j);
    }
    Bytes at(Bytes x) const {
        Bytes result = vqtbl4q_u8(part[0], x);
        for (int i = 1; i < 4; i++) result = vqtbx4q_u8(result, part[i], vsubq_u8(x, vdupq_n_u8(uint8_t(64 * i))));
        return result;
    }
};

class ByteSum {
public:
    void add(Bytes x) { sum += vaddlvq_u8(x); }
    int64_t total() const { return sum; }

private:
    int64_t sum = 0;
};
