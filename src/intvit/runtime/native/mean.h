// The division that a deferred softmax leaves for after its product with the values.
#pragma once
#include "lanes.h"
#include "step.h"
#include "tile.h"

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

    // The same of at most 64 sums with room for whole lanes, to int8: the limits must be in its range.
    void run(const int32_t* sums, int n, int64_t total, int8_t* out) const {
        const Scale factor{total ? multiplier / total : 0, shift, low, high};
        Lanes values[COLUMNS / LANES] = {};
        for (int i = 0; i * LANES < n; i++) values[i] = scale(load(sums + i * LANES), factor);
        store_row(out, values, n, INT8_MIN, INT8_MAX);
    }

private:
    const int64_t multiplier, shift, low, high;
};
