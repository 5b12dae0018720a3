// The vectors of lanes.h with AVX-512: F, BW, DQ, VL, VNNI and VBMI.
#pragma once
#include <immintrin.h>

enum { EPILOGUE_ROWS = 4, BYTES = 64 };

using Lanes = __m512i;

inline __mmask16 first(int count) { return count >= 16 ? __mmask16(~0) : __mmask16((1u << count) - 1); }

inline Lanes load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Lanes load(const int8_t* p, int count) { return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p)); }
inline Lanes load(const uint8_t* p, int count) { return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), p)); }
inline Lanes load(const int16_t* p, int count) { return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(count), p)); }
inline Lanes load(const uint16_t* p, int count) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p)); }

inline void store(int8_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi8(p, first(count), x); }
inline void store(uint8_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi8(p, first(count), x); }
inline void store(int16_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi16(p, first(count), x); }
inline void store(int32_t* p, Lanes x, int count) { _mm512_mask_storeu_epi32(p, first(count), x); }

inline Lanes zero() { return _mm512_setzero_si512(); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
inline Lanes spread_32(int32_t value) { return _mm512_set1_epi32(value); }
inline Lanes multiply(Lanes a, Lanes b) { return _mm512_mullo_epi32(a, b); }
inline void keep_larger(Lanes x, Lanes index, Lanes& most, Lanes& best) {
    best = _mm512_mask_mov_epi32(best, _mm512_cmpgt_epi32_mask(x, most), index);
    most = _mm512_max_epi32(most, x);
}
inline Lanes shift_left(Lanes x, Lanes places) { return _mm512_sllv_epi32(x, places); }

// mul_epi32 reads the low half of every 64 bits: the even lanes, or the odd ones once they have moved there.
template <bool TWO> inline __m512i products(__m512i x, __m512i y, const Multipliers& m, int odd) {
    const __m512i sum = _mm512_add_epi64(_mm512_mul_epi32(x, _mm512_load_si512(m.x[odd])), _mm512_load_si512(m.half[odd]));
    return TWO ? _mm512_add_epi64(sum, _mm512_mul_epi32(y, _mm512_load_si512(m.y[odd]))) : sum;
}
template <bool TWO> inline __m512i half_of_lanes(__m512i x, __m512i y, const Multipliers& m, int odd) {
    return _mm512_srav_epi64(products<TWO>(x, y, m, odd), _mm512_load_si512(m.shift[odd]));
}
inline __m512i odd_lanes(__m512i x) { return _mm512_shuffle_epi32(x, _MM_PERM_DDBB); }
inline __m512i join_lanes(__m512i even, __m512i odd) { return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA); }

template <bool TWO> inline Lanes multiply_shift(Lanes x, Lanes y, const Multipliers& m, int64_t low, int64_t high) {
    const __m512i least = _mm512_set1_epi64(low), most = _mm512_set1_epi64(high);
    const auto clamped = [&](__m512i v) { return _mm512_min_epi64(_mm512_max_epi64(v, least), most); };
    return join_lanes(clamped(half_of_lanes<TWO>(x, y, m, 0)), clamped(half_of_lanes<TWO>(odd_lanes(x), odd_lanes(y), m, 1)));
}
template <bool TWO> inline Lanes multiply_shift_fitting(Lanes x, Lanes y, const Multipliers& m) {
    return join_lanes(half_of_lanes<TWO>(x, y, m, 0), half_of_lanes<TWO>(odd_lanes(x), odd_lanes(y), m, 1));
}
inline Lanes multiply_shift_high(Lanes x, const Multipliers& m) {
    const __m512i even = products<false>(x, zero(), m, 0), odd = products<false>(odd_lanes(x), zero(), m, 1);
    return _mm512_srav_epi32(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB), _mm512_load_si512(m.shift_of_high));
}

template <class Out> inline void store_row(Out* p, const Lanes* x, int count, int32_t low, int32_t high) {
    const __mmask64 part = ~__mmask64(0) >> (64 - count);
    const __m512i a = _mm512_packs_epi32(x[0], x[1]), b = _mm512_packs_epi32(x[2], x[3]);  // in each quarter: x0 x1, x2 x3
    if constexpr (sizeof(Out) == 2) {
        const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        const __m512i least = _mm512_set1_epi16(int16_t(low)), most = _mm512_set1_epi16(int16_t(high));
        const __m512i first = _mm512_permutexvar_epi64(order, a), second = _mm512_permutexvar_epi64(order, b);
        _mm512_mask_storeu_epi16(p, __mmask32(part), _mm512_min_epi16(_mm512_max_epi16(first, least), most));
        _mm512_mask_storeu_epi16(p + 32, __mmask32(part >> 32), _mm512_min_epi16(_mm512_max_epi16(second, least), most));
    } else {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i least = _mm512_set1_epi8(int8_t(low)), most = _mm512_set1_epi8(int8_t(high));
        const __m512i bytes = std::is_signed_v<Out> ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
        const __m512i row = _mm512_permutexvar_epi32(order, bytes);
        _mm512_mask_storeu_epi8(p, part, std::is_signed_v<Out> ? _mm512_min_epi8(_mm512_max_epi8(row, least), most)
                                                               : _mm512_min_epu8(_mm512_max_epu8(row, least), most));
    }
}

struct Normalizer {
    __m512i factor, offset;
    __m128i places;
    Normalizer(int64_t factor, int64_t offset, int64_t places)
        : factor(_mm512_set1_epi64(factor)), offset(_mm512_set1_epi64(offset)), places(_mm_cvtsi64_si128(places)) {}
};
inline Lanes normalize(Lanes x, const Normalizer& n, const Multipliers& m) {
    const auto half = [&](__m512i x, int odd) __attribute__((always_inline)) {
        const __m512i v = _mm512_sra_epi64(_mm512_add_epi64(_mm512_mul_epi32(x, n.factor), n.offset), n.places);
        return half_of_lanes<false>(v, zero(), m, odd);
    };
    return join_lanes(half(x, 0), half(odd_lanes(x), 1));
}

struct Scale {
    __m512i factor, half, low, high;
    __m128i places;
    Scale(int64_t factor, int64_t places, int64_t low, int64_t high)
        : factor(_mm512_set1_epi64(factor)), half(_mm512_set1_epi64(int64_t(1) << (places - 1))), low(_mm512_set1_epi64(low)),
          high(_mm512_set1_epi64(high)), places(_mm_cvtsi64_si128(places)) {}
};
inline Lanes scale(Lanes x, const Scale& s) {
    const auto scaled = [&](__m256i x) __attribute__((always_inline)) {
        const __m512i v = _mm512_add_epi64(_mm512_mullo_epi64(_mm512_cvtepi32_epi64(x), s.factor), s.half);
        return _mm512_cvtepi64_epi32(_mm512_min_epi64(_mm512_max_epi64(_mm512_sra_epi64(v, s.places), s.low), s.high));
    };
    const __m256i first_half = scaled(_mm512_castsi512_si256(x)), second = scaled(_mm512_extracti64x4_epi64(x, 1));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first_half), second, 1);
}

using Words = __m512i;

inline __mmask32 first_words(int64_t count) { return count >= 32 ? ~__mmask32(0) : (__mmask32(1) << count) - 1; }
inline Words load_words(const int16_t* p, int64_t count) { return _mm512_maskz_loadu_epi16(first_words(count), p); }
inline Words load_words(const int8_t* p, int64_t count) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(first_words(count), p));
}
inline Words load_words(const uint8_t* p, int64_t count) {
    return _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(first_words(count), p));
}
inline Words multiply(Words x, const int16_t* y) { return _mm512_mullo_epi16(x, _mm512_loadu_si512(y)); }

class RowSums {
public:
    void add(Words x) {
        first = _mm512_add_epi32(first, _mm512_madd_epi16(x, _mm512_set1_epi16(1)));
        const __m512i squares = _mm512_madd_epi16(x, x);  // of two, at most 2^31: unsigned
        even = _mm512_add_epi64(even, _mm512_and_si512(squares, _mm512_set1_epi64(0xFFFFFFFF)));
        odd = _mm512_add_epi64(odd, _mm512_srli_epi64(squares, 32));
    }
    int64_t sum() const { return _mm512_reduce_add_epi32(first); }
    int64_t squares() const { return _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd)); }

private:
    __m512i first = zero(), even = zero(), odd = zero();
};

using Bytes = __m512i;
using ByteMask = __mmask64;

inline ByteMask first_bytes(int64_t count) { return count >= 64 ? ~__mmask64(0) : (__mmask64(1) << count) - 1; }
inline Bytes load_bytes(const void* p, int64_t count) { return _mm512_maskz_loadu_epi8(first_bytes(count), p); }
inline void store_bytes(void* p, Bytes x, int64_t count) { _mm512_mask_storeu_epi8(p, first_bytes(count), x); }
inline Bytes spread(uint8_t value) { return _mm512_set1_epi8(char(value)); }
inline Bytes flip(Bytes x, Bytes y) { return _mm512_xor_si512(x, y); }
inline Bytes larger(Bytes x, Bytes y) { return _mm512_max_epi8(x, y); }
inline Bytes subtract(Bytes x, Bytes y) { return _mm512_sub_epi8(x, y); }
inline ByteMask zero_bytes(Bytes x) { return _mm512_testn_epi8_mask(x, x); }
inline ByteMask both(ByteMask a, ByteMask b) { return a & b; }
inline Bytes select(ByteMask mask, Bytes yes, Bytes no) { return _mm512_mask_blend_epi8(mask, no, yes); }

inline int8_t largest(Bytes x) {
    const __m256i half = _mm256_max_epi8(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    // unsigned minima of 255 - (x + 128), by the one instruction that searches horizontally (on words)
    __m128i rest = _mm_xor_si128(_mm_max_epi8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)), _mm_set1_epi8(0x7F));
    rest = _mm_minpos_epu16(_mm_min_epu8(_mm_srli_epi16(rest, 8), _mm_and_si128(rest, _mm_set1_epi16(0xFF))));
    return int8_t(_mm_cvtsi128_si32(rest) ^ 0x7F);
}

// Four registers hold the table, which vpermi2b reads.
struct ByteTable {
    __m512i part[4];
    explicit ByteTable(const uint8_t* table) {
        for (int i = 0; i < 4; i++) part[i] = _mm512_loadu_si512(table + 64 * i);
    }
    Bytes at(Bytes x) const {
        const __m512i low = _mm512_permutex2var_epi8(part[0], x, part[1]);
        const __m512i high = _mm512_permutex2var_epi8(part[2], x, part[3]);
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
    }
};

class ByteSum {
public:
    void add(Bytes x) { sums = _mm512_add_epi64(sums, _mm512_sad_epu8(x, _mm512_setzero_si512())); }
    int64_t total() const { return _mm512_reduce_add_epi64(sums); }

private:
    __m512i sums = _mm512_setzero_si512();
};
