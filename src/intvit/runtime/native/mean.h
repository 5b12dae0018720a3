// The division that a deferred softmax leaves for after its product with the values.
#pragma once
#include "lanes.h"
#include "step.h"

class WeightedMean {
public:
    // attributes first..first+3 of the plan: multiplier, shift, low, high.
    WeightedMean(const Plan& plan, int first)
        : multiplier(plan.attribute(first, 0, (int64_t(1) << 53) - 1)), shift(plan.attribute(first + 1, 1, 62)),
          low(plan.attribute(first + 2, INT16_MIN, 0)), high(plan.attribute(first + 3, 0, INT16_MAX)) {}

    // out = clamp((sums * floor(multiplier / total) + 2^(shift-1)) >> shift)
    template <class Out, class Sum> void run(const Sum* sums, int64_t n, int64_t total, Out* out) const {
        const int64_t factor = total ? multiplier / total : 0, half = int64_t(1) << (shift - 1);
        const int64_t places = shift, least = low, most = high;
        for (int64_t i = 0; i < n; i++) {
            int64_t v = (sums[i] * factor + half) >> places;
            v = v < least ? least : v;
            out[i] = Out(v > most ? most : v);
        }
    }

#ifdef INTVIT_AVX512

    // The same of at most 64 sums with room for whole lanes, to int8: the limits must be in its range.
    void run(const int32_t* sums, int n, int64_t total, int8_t* out) const {
        const __m512i factor = _mm512_set1_epi64(total ? multiplier / total : 0), half = _mm512_set1_epi64(int64_t(1) << (shift - 1));
        const __m512i least = _mm512_set1_epi64(low), most = _mm512_set1_epi64(high);
        const __m128i places = _mm_cvtsi64_si128(shift);
        const auto scaled = [&](__m256i x) __attribute__((always_inline)) {
            const __m512i v = _mm512_add_epi64(_mm512_mullo_epi64(_mm512_cvtepi32_epi64(x), factor), half);
            return _mm512_cvtepi64_epi32(_mm512_min_epi64(_mm512_max_epi64(_mm512_sra_epi64(v, places), least), most));
        };
        Lanes values[4] = {};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            if (i * LANES >= n) break;
            const Lanes x = load(sums + i * LANES);
            const __m256i first_half = scaled(_mm512_castsi512_si256(x)), second = scaled(_mm512_extracti64x4_epi64(x, 1));
            values[i] = _mm512_inserti64x4(_mm512_castsi256_si512(first_half), second, 1);
        }
        store_row(out, values, n, INT8_MIN, INT8_MAX);
    }

#endif

private:
    const int64_t multiplier, shift, low, high;
};
