// Rows of bytes: their maximum, and tables of 256 bytes, which four registers hold and vpermi2b reads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "lanes.h"

#ifdef INTVIT_AVX512

inline __mmask64 first_bytes(int64_t count) { return count >= 64 ? ~__mmask64(0) : (__mmask64(1) << count) - 1; }

struct ByteTable {
    __m512i part[4];
    explicit ByteTable(const uint8_t* table) {
        for (int i = 0; i < 4; i++) part[i] = _mm512_loadu_si512(table + 64 * i);
    }
    __m512i at(__m512i index) const {
        const __m512i low = _mm512_permutex2var_epi8(part[0], index, part[1]);
        const __m512i high = _mm512_permutex2var_epi8(part[2], index, part[3]);
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    }
};

inline int8_t row_maximum(const int8_t* x, int64_t n) {
    const __m512i least = _mm512_set1_epi8(-128);
    __m512i most = least;
    for (int64_t i = 0; i < n; i += 64) most = _mm512_max_epi8(most, _mm512_mask_loadu_epi8(least, first_bytes(n - i), x + i));
    const __m256i half = _mm256_max_epi8(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
    // unsigned minima of 255 - (x + 128), by the one instruction that searches horizontally (on words)
    __m128i rest = _mm_xor_si128(_mm_max_epi8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)), _mm_set1_epi8(0x7F));
    rest = _mm_minpos_epu16(_mm_min_epu8(_mm_srli_epi16(rest, 8), _mm_and_si128(rest, _mm_set1_epi16(0xFF))));
    return int8_t(_mm_cvtsi128_si32(rest) ^ 0x7F);
}

// out[i] = table[x[i] ^ flip]
inline void look_up(const uint8_t* x, int64_t n, uint8_t flip, const uint8_t* table, uint8_t* out) {
    const ByteTable bytes(table);
    const __m512i turn = _mm512_set1_epi8(char(flip));
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 part = first_bytes(n - i);
        _mm512_mask_storeu_epi8(out + i, part, bytes.at(_mm512_xor_si512(_mm512_maskz_loadu_epi8(part, x + i), turn)));
    }
}

#else

inline int8_t row_maximum(const int8_t* x, int64_t n) {
    int8_t most = -128;
    for (int64_t i = 0; i < n; i++) most = std::max(most, x[i]);
    return most;
}

inline void look_up(const uint8_t* x, int64_t n, uint8_t flip, const uint8_t* table, uint8_t* out) {
    for (int64_t i = 0; i < n; i++) out[i] = table[x[i] ^ flip];
}

#endif
