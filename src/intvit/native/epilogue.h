// From the accumulators of a tile to values: add the columns' offsets, then multiply, shift, clamp and store, with a residual
// in the sum if there is one.
#pragma once
#include "lanes.h"
#include "step.h"
#include "tile.h"

class Epilogue {
public:
    enum Mode { ACCUMULATORS, REQUANTIZED, ADDED };

    // constants first..first+2 of the plan: multipliers, multipliers of the residual, shifts, [columns] int64 each.
    Epilogue(const Plan& plan, Mode mode, int32_t low, int32_t high, int first, int64_t columns) : mode(mode), low(low), high(high) {
        if (mode == ACCUMULATORS) return;
        const vector<int64_t> x = plan.copy<int64_t>(first, I64, columns), shift = plan.copy<int64_t>(first + 2, I64, columns);
        const vector<int64_t> y = mode == ADDED ? plan.copy<int64_t>(first + 1, I64, columns) : vector<int64_t>(columns);
        groups.resize(round_up(columns, COLUMNS) / LANES);
        for (int64_t c = 0; c < int64_t(groups.size()) * LANES; c++) {
            const bool real = c < columns;
            if (real) check(x[c], y[c], shift[c]);
            groups[c / LANES].set(c % LANES, real ? x[c] : 0, real ? y[c] : 0, real ? shift[c] : 1);
        }
    }

    static void check(int64_t x, int64_t y, int64_t shift) {
        const int64_t limit = int64_t(1) << 31;
        require(-limit < x && x < limit && -limit < y && y < limit, "a multiplier is wider than 32 bits");
        require(1 <= shift && shift <= 62, "a shift is outside 1..62");
    }

    // Rows of `columns` <= 64 accumulators, for the columns from `start` of the output. Strides count entries.
    template <class Out, class Residual>
    void apply(const int32_t* sums, int rows, const int32_t* offset, int64_t start, int columns, const Residual* residual,
               int64_t residual_stride, Out* out, int64_t stride) const {
        const Clamp clamp(low, high);
        for (int c = 0; c < columns; c += LANES) {
            const int count = columns - c < LANES ? columns - c : LANES;
            const Lanes bias = load(offset + c);
            for (int r = 0; r < rows; r++) {
                Lanes x = add(load(sums + r * COLUMNS + c), bias);
                const Multipliers* m = mode == ACCUMULATORS ? nullptr : &groups[(start + c) / LANES];
                if (mode == REQUANTIZED) x = multiply_shift<false>(x, zero(), *m, clamp);
                if (mode == ADDED) x = multiply_shift<true>(x, load(residual + r * residual_stride + c, count), *m, clamp);
                store(out + r * stride + c, x, count);
            }
        }
    }

    int64_t bytes() const { return int64_t(groups.size() * sizeof(Multipliers)); }

private:
    Mode mode;
    int32_t low, high;
    vector<Multipliers> groups;
};
