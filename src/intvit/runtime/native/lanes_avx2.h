// The vectors of lanes.h with AVX2, two registers each.
#pragma once
#include <immintrin.h>

enum { EPILOGUE_ROWS = 1, BYTES = 32 };

struct Lanes {
    __m256i part[2];
};

inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_256(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
template <class Function> inline Lanes both_parts(const Function& function) { return {{function(0), function(1)}}; }

inline Lanes load(const int32_t* p) {
    return both_parts([&](int i) { return load_256(p + 8 * i); });
}
// Sixteen bytes or words at p, of which `count` are there.
template <class T> inline __m128i part_of_128(const T* p, int64_t count) {
    if (count * int64_t(sizeof(T)) >= 16) return load_128(p);
    alignas(16) T copy[16 / sizeof(T)] = {};
    if (count > 0) memcpy(copy, p, count * sizeof(T));
    return load_128(copy);
}
inline __m256i widened(const int8_t*, __m128i x) { return _mm256_cvtepi8_epi32(x); }
inline __m256i widened(const uint8_t*, __m128i x) { return _mm256_cvtepu8_epi32(x); }
inline __m256i widened(const int16_t*, __m128i x) { return _mm256_cvtepi16_epi32(x); }
inline __m256i widened(const uint16_t*, __m128i x) { return _mm256_cvtepu16_epi32(x); }
template <class T> inline Lanes load(const T* p, int count) {
    if constexpr (sizeof(T) == 1) {
        const __m128i x = part_of_128(p, count);
        return {{widened(p, x), widened(p, _mm_srli_si128(x, 8))}};
    }
    return {{widened(p, part_of_128(p, count)), widened(p, part_of_128(p + 8, count - 8))}};
}
template <class T> inline void store(T* p, const Lanes& x, int count) {
    alignas(32) int32_t lane[LANES];
    for (int i = 0; i < 2; i++) store_256(lane + 8 * i, x.part[i]);
    for (int i = 0; i < std::min<int>(count, LANES); i++) p[i] = T(lane[i]);
}

inline Lanes zero() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
inline Lanes add(const Lanes& a, const Lanes& b) {
    return both_parts([&](int i) { return _mm256_add_epi32(a.part[i], b.part[i]); });
}
inline Lanes spread_32(int32_t value) { return {{_mm256_set1_epi32(value), _mm256_set1_epi32(value)}}; }
inline Lanes multiply(const Lanes& a, const Lanes& b) {
    return both_parts([&](int i) { return _mm256_mullo_epi32(a.part[i], b.part[i]); });
}
inline void keep_larger(const Lanes& x, const Lanes& index, Lanes& most, Lanes& best) {
    for (int i = 0; i < 2; i++) {
        best.part[i] = _mm256_blendv_epi8(best.part[i], index.part[i], _mm256_cmpgt_epi32(x.part[i], most.part[i]));
        most.part[i] = _mm256_max_epi32(most.part[i], x.part[i]);
    }
}
inline Lanes shift_left(const Lanes& x, const Lanes& places) {
    return both_parts([&](int i) { return _mm256_sllv_epi32(x.part[i], places.part[i]); });
}

// AVX2 shifts 64 bits without their sign only: shift x + 2^63, then take 2^63 >> places away.
inline __m256i shift_right(__m256i x, __m256i places) {
    const __m256i top = _mm256_set1_epi64x(INT64_MIN);
    return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(x, top), places), _mm256_srlv_epi64(top, places));
}
inline __m256i clamp_64(__m256i x, __m256i low, __m256i high) {
    x = _mm256_blendv_epi8(x, low, _mm256_cmpgt_epi64(low, x));
    return _mm256_blendv_epi8(x, high, _mm256_cmpgt_epi64(x, high));
}
// mul_epi32 reads the low half of every 64 bits: the even lanes, or the odd ones once they have moved there.
template <bool TWO> inline __m256i products(__m256i x, __m256i y, const Multipliers& m, int odd, int part) {
    const int first = 4 * part;
    const __m256i sum = _mm256_add_epi64(_mm256_mul_epi32(x, load_256(m.x[odd] + first)), load_256(m.half[odd] + first));
    return TWO ? _mm256_add_epi64(sum, _mm256_mul_epi32(y, load_256(m.y[odd] + first))) : sum;
}
template <bool TWO> inline __m256i half_of_lanes(__m256i x, __m256i y, const Multipliers& m, int odd, int part) {
    return shift_right(products<TWO>(x, y, m, odd, part), load_256(m.shift[odd] + 4 * part));
}
inline __m256i odd_lanes(__m256i x) { return _mm256_shuffle_epi32(x, 0xF5); }
inline __m256i join_lanes(__m256i even, __m256i odd) { return _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xA0), 0xAA); }

template <bool TWO>
inline Lanes multiply_shift(const Lanes& x, const Lanes& y, const Multipliers& m, int64_t low, int64_t high) {
    const __m256i least = _mm256_set1_epi64x(low), most = _mm256_set1_epi64x(high);
    return both_parts([&](int i) {
        const __m256i odd = half_of_lanes<TWO>(odd_lanes(x.part[i]), odd_lanes(y.part[i]), m, 1, i);
        return join_lanes(clamp_64(half_of_lanes<TWO>(x.part[i], y.part[i], m, 0, i), least, most), clamp_64(odd, least, most));
    });
}
template <bool TWO> inline Lanes multiply_shift_fitting(const Lanes& x, const Lanes& y, const Multipliers& m) {
    return both_parts([&](int i) {
        return join_lanes(half_of_lanes<TWO>(x.part[i], y.part[i], m, 0, i),
                          half_of_lanes<TWO>(odd_lanes(x.part[i]), odd_lanes(y.part[i]), m, 1, i));
    });
}
inline Lanes multiply_shift_high(const Lanes& x, const Multipliers& m) {
    return both_parts([&](int i) {
        const __m256i even = products<false>(x.part[i], x.part[i], m, 0, i);
        const __m256i odd = products<false>(odd_lanes(x.part[i]), x.part[i], m, 1, i);
        return _mm256_srav_epi32(_mm256_blend_epi32(odd_lanes(even), odd, 0xAA), load_256(m.shift_of_high + 8 * i));
    });
}

template <class Out> inline void store_part(Out* p, __m256i x, int count) {
    if (count >= int(32 / sizeof(Out))) return store_256(p, x);
    alignas(32) Out copy[32 / sizeof(Out)];
    store_256(copy, x);
    memcpy(p, copy, count * sizeof(Out));
}
template <class Out> inline void store_row(Out* p, const Lanes* x, int count, int32_t low, int32_t high) {
    for (int i = 0; 32 * i < count; i++, x += 2) {
        const int left = count - 32 * i;
        const __m256i a = _mm256_packs_epi32(x[0].part[0], x[0].part[1]), b = _mm256_packs_epi32(x[1].part[0], x[1].part[1]);
        if constexpr (sizeof(Out) == 2) {
            const __m256i least = _mm256_set1_epi16(int16_t(low)), most = _mm256_set1_epi16(int16_t(high));
            const auto row = [&](__m256i v) {
                return _mm256_min_epi16(_mm256_max_epi16(_mm256_permute4x64_epi64(v, 0xD8), least), most);
            };
            store_part(p + 32 * i, row(a), std::min(left, 16));
            if (left > 16) store_part(p + 32 * i + 16, row(b), left - 16);
        } else {
            const __m256i least = _mm256_set1_epi8(int8_t(low)), most = _mm256_set1_epi8(int8_t(high));
            const __m256i bytes = std::is_signed_v<Out> ? _mm256_packs_epi16(a, b) : _mm256_packus_epi16(a, b);
            const __m256i row = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            store_part(p + 32 * i, std::is_signed_v<Out> ? _mm256_min_epi8(_mm256_max_epi8(row, least), most)
                                                         : _mm256_min_epu8(_mm256_max_epu8(row, least), most), left);
        }
    }
}

struct Normalizer {
    __m256i factor, offset, places;
    Normalizer(int64_t factor, int64_t offset, int64_t places)
        : factor(_mm256_set1_epi64x(factor)), offset(_mm256_set1_epi64x(offset)), places(_mm256_set1_epi64x(places)) {}
};
inline Lanes normalize(const Lanes& x, const Normalizer& n, const Multipliers& m) {
    return both_parts([&](int i) {
        const auto half = [&](__m256i x, int odd) {
            const __m256i v = shift_right(_mm256_add_epi64(_mm256_mul_epi32(x, n.factor), n.offset), n.places);
            return half_of_lanes<false>(v, v, m, odd, i);
        };
        return join_lanes(half(x.part[i], 0), half(odd_lanes(x.part[i]), 1));
    });
}

// The factor as high * 2^32 + low, both of which fit int32.
struct Scale {
    __m256i factor_low, factor_high, half, places, low, high;
    Scale(int64_t factor, int64_t places, int64_t low, int64_t high)
        : factor_low(_mm256_set1_epi64x(int32_t(factor))), factor_high(_mm256_set1_epi64x((factor - int32_t(factor)) >> 32)),
          half(_mm256_set1_epi64x(int64_t(1) << (places - 1))), places(_mm256_set1_epi64x(places)),
          low(_mm256_set1_epi64x(low)), high(_mm256_set1_epi64x(high)) {}
};
inline Lanes scale(const Lanes& x, const Scale& s) {
    const auto scaled = [&](__m256i x) {
        const __m256i upper = _mm256_slli_epi64(_mm256_mul_epi32(x, s.factor_high), 32);
        const __m256i product = _mm256_add_epi64(_mm256_mul_epi32(x, s.factor_low), upper);
        return clamp_64(shift_right(_mm256_add_epi64(product, s.half), s.places), s.low, s.high);
    };
    return both_parts([&](int i) { return join_lanes(scaled(x.part[i]), scaled(odd_lanes(x.part[i]))); });
}

struct Words {
    __m256i part[2];
};
template <class T> inline Words load_words(const T* p, int64_t count) {
    const auto sixteen = [&](const T* p, int64_t count) {
        if constexpr (sizeof(T) == 1) {
            const __m128i x = part_of_128(p, count);
            return std::is_signed_v<T> ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x);
        }
        return _mm256_set_m128i(part_of_128(p + 8, count - 8), part_of_128(p, count));
    };
    return {{sixteen(p, count), count > 16 ? sixteen(p + 16, count - 16) : _mm256_setzero_si256()}};
}
inline Words multiply(const Words& x, const int16_t* y) {
    return {{_mm256_mullo_epi16(x.part[0], load_256(y)), _mm256_mullo_epi16(x.part[1], load_256(y + 16))}};
}

inline int64_t sum_of_64(__m256i x) {
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}
class RowSums {
public:
    void add(const Words& x) {
        for (const __m256i& words : x.part) {
            first = _mm256_add_epi32(first, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
            const __m256i squares = _mm256_madd_epi16(words, words);  // of two, at most 2^31: unsigned
            second = _mm256_add_epi64(second, _mm256_and_si256(squares, _mm256_set1_epi64x(0xFFFFFFFF)));
            second = _mm256_add_epi64(second, _mm256_srli_epi64(squares, 32));
        }
    }
    int64_t sum() const {
        const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(first, 1));
        return sum_of_64(_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(first)), high));
    }
    int64_t squares() const { return sum_of_64(second); }

private:
    __m256i first = _mm256_setzero_si256(), second = _mm256_setzero_si256();
};

using Bytes = __m256i;
using ByteMask = __m256i;  // of 0 and 255

inline Bytes load_bytes(const void* p, int64_t count) {
    if (count >= 32) return load_256(p);
    alignas(32) uint8_t copy[32] = {};
    memcpy(copy, p, count);
    return load_256(copy);
}
inline void store_bytes(void* p, Bytes x, int64_t count) { store_part(static_cast<uint8_t*>(p), x, int(std::min<int64_t>(count, 32))); }
inline Bytes spread(uint8_t value) { return _mm256_set1_epi8(char(value)); }
inline Bytes flip(Bytes x, Bytes y) { return _mm256_xor_si256(x, y); }
inline Bytes larger(Bytes x, Bytes y) { return _mm256_max_epi8(x, y); }
inline Bytes subtract(Bytes x, Bytes y) { return _mm256_sub_epi8(x, y); }
inline ByteMask first_bytes(int64_t count) {
    const __m256i places = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
                                            24, 25, 26, 27, 28, 29, 30, 31);
    return _mm256_cmpgt_epi8(_mm256_set1_epi8(char(std::min<int64_t>(count, 32))), places);
}
inline ByteMask zero_bytes(Bytes x) { return _mm256_cmpeq_epi8(x, _mm256_setzero_si256()); }
inline ByteMask both(ByteMask a, ByteMask b) { return _mm256_and_si256(a, b); }
inline Bytes select(ByteMask mask, Bytes yes, Bytes no) { return _mm256_blendv_epi8(no, yes, mask); }
inline int8_t largest(Bytes x) {
    const __m128i half = _mm_max_epi8(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    // unsigned minima of 255 - (x + 128), by the one instruction that searches horizontally (on words)
    __m128i rest = _mm_xor_si128(half, _mm_set1_epi8(0x7F));
    rest = _mm_minpos_epu16(_mm_min_epu8(_mm_srli_epi16(rest, 8), _mm_and_si128(rest, _mm_set1_epi16(0xFF))));
    return int8_t(_mm_cvtsi128_si32(rest) ^ 0x7F);
}

// vpshufb reads 16 entries and gives 0 where an index is beyond 127: each part of the table in turn, at the index less the
// part's place, saturated above.
struct ByteTable {
    __m256i part[16];
    explicit ByteTable(const uint8_t* table) {
        for (int i = 0; i < 16; i++) part[i] = _mm256_broadcastsi128_si256(load_128(table + 16 * i));
    }
    Bytes at(Bytes x) const {
        __m256i result = _mm256_setzero_si256();
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const __m256i index = _mm256_adds_epu8(_mm256_xor_si256(x, _mm256_set1_epi8(char(16 * i))), _mm256_set1_epi8(0x70));
            result = _mm256_or_si256(result, _mm256_shuffle_epi8(part[i], index));
        }
        return result;
    }
};

class ByteSum {
public:
    void add(Bytes x) { sums = _mm256_add_epi64(sums, _mm256_sad_epu8(x, _mm256_setzero_si256())); }
    int64_t total() const { return sum_of_64(sums); }

private:
    __m256i sums = _mm256_setzero_si256();
};
