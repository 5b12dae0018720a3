// Sixteen int32 lanes, and the multiply-and-shift that every requantization ends with, for AVX-512 and in plain C++.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#define INTVIT_AVX512 1
#endif

enum { LANES = 16 };

// Per channel, sixteen at a time: clamp((x * multiplier [+ y * multiplier_y] + 2^(shift-1)) >> shift). Products are 64 bits
// wide. The even and the odd lanes stand apart, for the vector product takes every other lane.
struct alignas(64) Multipliers {
    int64_t x[2][8], y[2][8], shift[2][8], half[2][8];

    void set(int lane, int64_t multiplier, int64_t multiplier_y, int64_t places) {
        x[lane % 2][lane / 2] = multiplier;
        y[lane % 2][lane / 2] = multiplier_y;
        shift[lane % 2][lane / 2] = places;
        half[lane % 2][lane / 2] = int64_t(1) << (places - 1);
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

// mul_epi32 reads the low half of every 64 bits: the even lanes, or the odd ones after a shift by 32.
template <bool TWO>
inline __m512i half_of_lanes(__m512i x, __m512i y, const Multipliers& m, int odd, __m512i low, __m512i high) {
    __m512i sum = _mm512_add_epi64(_mm512_mul_epi32(x, _mm512_load_si512(m.x[odd])), _mm512_load_si512(m.half[odd]));
    if (TWO) sum = _mm512_add_epi64(sum, _mm512_mul_epi32(y, _mm512_load_si512(m.y[odd])));
    sum = _mm512_srav_epi64(sum, _mm512_load_si512(m.shift[odd]));
    return _mm512_min_epi64(_mm512_max_epi64(sum, low), high);
}

struct Clamp {
    __m512i low, high;
    Clamp(int32_t low, int32_t high) : low(_mm512_set1_epi64(low)), high(_mm512_set1_epi64(high)) {}
};

template <bool TWO> inline Lanes multiply_shift(Lanes x, Lanes y, const Multipliers& m, const Clamp& clamp) {
    const __m512i even = half_of_lanes<TWO>(x, y, m, 0, clamp.low, clamp.high);
    const __m512i odd = half_of_lanes<TWO>(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32), m, 1, clamp.low, clamp.high);
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
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
