// Sixteen int32 lanes, and the multiply-and-shift that every requantization ends with, for AVX-512 and in plain C++.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#define INTVIT_AVX512 1
#endif

enum { LANES = 16 };

// Per channel, sixteen at a time: clamp((x * multiplier [+ y * multiplier_y] + 2^(shift-1)) >> shift). Products are 64 bits
// wide. The even and the odd lanes stand apart, for the vector product takes every other lane.
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

#ifdef INTVIT_AVX512

using Lanes = __m512i;

inline Lanes load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Lanes zero() { return _mm512_setzero_si512(); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
inline __mmask16 first(int count) { return __mmask16((1u << count) - 1); }

inline Lanes load(const int8_t* p, int count) { return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p)); }
inline Lanes load(const uint8_t* p, int count) { return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), p)); }
inline Lanes load(const int16_t* p, int count) { return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(count), p)); }
inline Lanes load(const uint16_t* p, int count) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p)); }

inline void store(int8_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi8(p, first(count), x); }
inline void store(uint8_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi8(p, first(count), x); }
inline void store(int16_t* p, Lanes x, int count) { _mm512_mask_cvtepi32_storeu_epi16(p, first(count), x); }
inline void store(int32_t* p, Lanes x, int count) { _mm512_mask_storeu_epi32(p, first(count), x); }

struct Clamp {
    __m512i low, high;
    Clamp(int32_t low, int32_t high) : low(_mm512_set1_epi64(low)), high(_mm512_set1_epi64(high)) {}
    __m512i apply(__m512i x) const { return _mm512_min_epi64(_mm512_max_epi64(x, low), high); }
};

// Of results that fit int32 as they are.
struct NoClamp {
    __m512i apply(__m512i x) const { return x; }
};

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

template <bool TWO, class Limit> inline Lanes multiply_shift(Lanes x, Lanes y, const Multipliers& m, const Limit& limit) {
    return join_lanes(limit.apply(half_of_lanes<TWO>(x, y, m, 0)),
                      limit.apply(half_of_lanes<TWO>(odd_lanes(x), odd_lanes(y), m, 1)));
}

// The same where every shift is at least 32, so that the result is the upper half shifted on, and fits without a clamp.
inline Lanes multiply_shift_high(Lanes x, const Multipliers& m) {
    const __m512i even = products<false>(x, zero(), m, 0), odd = products<false>(odd_lanes(x), zero(), m, 1);
    return _mm512_srav_epi32(_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB), _mm512_load_si512(m.shift_of_high));
}

// The first `count` of four times sixteen lanes, saturated to the type and clamped.
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

#else

struct Lanes {
    int32_t lane[LANES];
};

inline Lanes load(const int32_t* p) {
    Lanes x;
    memcpy(x.lane, p, sizeof x.lane);
    return x;
}
inline Lanes zero() { return Lanes{}; }
inline Lanes add(Lanes a, const Lanes& b) {  // wraps: see packed.h
    for (int i = 0; i < LANES; i++) a.lane[i] = int32_t(uint32_t(a.lane[i]) + uint32_t(b.lane[i]));
    return a;
}
template <class T> inline Lanes load(const T* p, int count) {
    Lanes x{};
    for (int i = 0; i < count; i++) x.lane[i] = p[i];
    return x;
}
template <class T> inline void store(T* p, const Lanes& x, int count) {
    for (int i = 0; i < count; i++) p[i] = T(x.lane[i]);
}

struct Clamp {
    int64_t low, high;
    Clamp(int32_t low, int32_t high) : low(low), high(high) {}
};

template <bool TWO> inline Lanes multiply_shift(const Lanes& x, const Lanes& y, const Multipliers& m, const Clamp& clamp) {
    Lanes result;
    for (int i = 0; i < LANES; i++) {
        int64_t sum = x.lane[i] * m.x[i % 2][i / 2] + m.half[i % 2][i / 2];
        if (TWO) sum += y.lane[i] * m.y[i % 2][i / 2];
        sum >>= m.shift[i % 2][i / 2];
        sum = sum < clamp.low ? clamp.low : sum;
        result.lane[i] = int32_t(sum > clamp.high ? clamp.high : sum);
    }
    return result;
}

#endif
