// LayerNorm of rows that fit int16, with AVX-512: two passes, the sums and the scaling.
//
// Both methods come down to v = (x * factor - center * reciprocal) >> k and clamp((v * multiplier + bias) >> shift), where the
// sums of x and x^2 give the sum of the squared distances from the center exactly.
#pragma once
#include <memory>

#include "epilogue.h"

class LayerNormLanes {
public:
    struct Moments {
        int64_t sum, squares;
    };
    // y = scale * x - center, with |y| <= farthest, times reciprocal.
    struct Factors {
        int64_t scale, center, farthest, reciprocal;
    };

#ifdef INTVIT_AVX512

    // Null where values might leave the lanes. bias holds the rounding term of the output.
    static std::unique_ptr<LayerNormLanes> of(int32_t type, int32_t out_type, const vector<int64_t>& multiplier,
                                              const vector<int64_t>& bias, const vector<int64_t>& shift,
                                              const vector<int64_t>& channel_shift, int64_t low, int64_t high) {
        const bool bytes = type == I8 || type == U8, int16 = type == I16 && channel_shift.empty();
        if (!(bytes || int16) || out_type != I8 || low < INT8_MIN || high > INT8_MAX || multiplier.size() > MOST) return nullptr;
        std::unique_ptr<LayerNormLanes> lanes(new LayerNormLanes(type, int64_t(multiplier.size()), int32_t(low), int32_t(high)));
        for (int64_t c = 0; c < lanes->size; c++) {
            const int64_t limit = int64_t(1) << 31;
            if (multiplier[c] <= -limit || multiplier[c] >= limit) return nullptr;
            if (bias[c] <= -(int64_t(1) << 61) || bias[c] >= int64_t(1) << 61) return nullptr;
            if (((std::abs(multiplier[c]) << 31) + std::abs(bias[c])) >> shift[c] > INT32_MAX) return nullptr;
            lanes->groups[c / LANES].set(c % LANES, multiplier[c], 0, shift[c]);
            lanes->groups[c / LANES].half[c % 2][c % LANES / 2] = bias[c];
            lanes->shifts[c] = channel_shift.empty() ? 0 : int16_t(channel_shift[c]);
        }
        return lanes;
    }

    Moments moments(const uint8_t* row) const {
        const __m512i ones = _mm512_set1_epi16(1), low_half = _mm512_set1_epi64(0xFFFFFFFF);
        __m512i sum = zero(), even = zero(), odd = zero();
        for (int64_t c = 0; c < size; c += 32) {
            const __m512i x = load_words(row, c);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, ones));
            const __m512i squares = _mm512_madd_epi16(x, x);  // of two, at most 2^31: unsigned
            even = _mm512_add_epi64(even, _mm512_and_si512(squares, low_half));
            odd = _mm512_add_epi64(odd, _mm512_srli_epi64(squares, 32));
        }
        return {_mm512_reduce_add_epi32(sum), _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd))};
    }

    // v = (y * reciprocal) >> k, and then the output. False, and nothing is written, where a product might leave its lane.
    bool scale(const uint8_t* row, uint8_t* out, const Factors& y, int64_t k) const {
        const int64_t factor = y.scale * y.reciprocal;
        if (factor > INT32_MAX || y.farthest > INT32_MAX || (y.farthest * y.reciprocal) >> k > INT32_MAX) return false;
        const __m512i f = _mm512_set1_epi64(factor), offset = _mm512_set1_epi64(-y.center * y.reciprocal);
        const __m128i places = _mm_cvtsi64_si128(k);
        const auto lanes = [&](int64_t c) __attribute__((always_inline)) {
            const __m512i x = load_lanes(row, c);
            const Multipliers& m = groups[c / LANES];
            const auto half = [&](__m512i x, int odd) __attribute__((always_inline)) {
                const __m512i v = _mm512_sra_epi64(_mm512_add_epi64(_mm512_mul_epi32(x, f), offset), places);
                return half_of_lanes<false>(v, zero(), m, odd);
            };
            return join_lanes(half(x, 0), half(odd_lanes(x), 1));
        };
        for (int64_t c = 0; c < size; c += 4 * LANES) {
            Lanes values[4] = {};
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                if (c + i * LANES < size) values[i] = lanes(c + i * LANES);
            store_row(reinterpret_cast<int8_t*>(out) + c, values, int(std::min<int64_t>(size - c, 4 * LANES)), low, high);
        }
        return true;
    }

    int64_t bytes() const { return int64_t(groups.size() * sizeof(Multipliers) + shifts.size() * 2); }

private:
    enum { MOST = 1 << 14 };  // channels: 2^14 / 16 sums of 2^15 fit int32

    LayerNormLanes(int32_t type, int64_t size, int32_t low, int32_t high)
        : type(type), size(size), low(low), high(high), groups(round_up(size, 64) / LANES), shifts(round_up(size, 64)) {
        for (Multipliers& group : groups)
            for (int lane = 0; lane < LANES; lane++) group.set(lane, 0, 0, 1);
    }

    __m512i load_words(const uint8_t* row, int64_t c) const {
        const __mmask32 part = size - c >= 32 ? ~__mmask32(0) : (__mmask32(1) << (size - c)) - 1;
        if (type == I16) return _mm512_maskz_loadu_epi16(part, row + 2 * c);
        const __m256i bytes = _mm256_maskz_loadu_epi8(part, row + c);
        const __m512i words = type == I8 ? _mm512_cvtepi8_epi16(bytes) : _mm512_cvtepu8_epi16(bytes);
        return _mm512_sllv_epi16(words, _mm512_loadu_si512(&shifts[c]));
    }
    Lanes load_lanes(const uint8_t* row, int64_t c) const {
        const int count = int(std::min<int64_t>(size - c, LANES));
        if (type == I16) return load(reinterpret_cast<const int16_t*>(row) + c, count);
        const Lanes x = type == I8 ? load(reinterpret_cast<const int8_t*>(row) + c, count) : load(row + c, count);
        return _mm512_sllv_epi32(x, load(&shifts[c], LANES));
    }

    const int32_t type;
    const int64_t size;
    const int32_t low, high;
    vector<Multipliers> groups;
    vector<int16_t> shifts;

#else

    static std::unique_ptr<LayerNormLanes> of(int32_t, int32_t, const vector<int64_t>&, const vector<int64_t>&,
                                              const vector<int64_t>&, const vector<int64_t>&, int64_t, int64_t) {
        return nullptr;
    }
    Moments moments(const uint8_t*) const { return {0, 0}; }
    bool scale(const uint8_t*, uint8_t*, const Factors&, int64_t) const { return false; }
    int64_t bytes() const { return 0; }

#endif
};
