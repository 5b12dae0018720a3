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
            if (real) {
                check(x[c], y[c], shift[c]);
                const int64_t most = (std::abs(x[c]) << 31) + (std::abs(y[c]) << 16) + (int64_t(1) << (shift[c] - 1));
                narrow &= most >> shift[c] <= INT32_MAX;
            }
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
#ifdef INTVIT_AVX512
        if constexpr (sizeof(Out) <= 2)
            if (narrow && columns == COLUMNS) {
                const Multipliers* m = groups.data() + start / LANES;
                if (mode == ADDED) return whole_rows<true>(sums, rows, offset, m, residual, residual_stride, out, stride);
                return whole_rows<false>(sums, rows, offset, m, residual, residual_stride, out, stride);
            }
#endif
        for (int r = 0; r < rows; r++, sums += COLUMNS, out += stride) {
            apply_row(sums, offset, start, columns, residual, out);
            if (mode == ADDED) residual += residual_stride;
        }
    }

    // How many columns to apply to where all rows have room for a whole panel: with vectors whole rows are faster.
    static int with_room(int columns) {
#ifdef INTVIT_AVX512
        return COLUMNS;
#endif
        return columns;
    }

    int64_t bytes() const { return int64_t(groups.size() * sizeof(Multipliers)); }

private:
    template <class Out, class Residual>
    void apply_row(const int32_t* sums, const int32_t* offset, int64_t start, int columns, const Residual* residual,
                   Out* out) const {
        const Multipliers* m = groups.data() + start / LANES;
        const Clamp clamp(low, high);
        for (int c = 0; c < columns; c += LANES, m++) {
            const int count = columns - c < LANES ? columns - c : LANES;
            Lanes x = add(load(sums + c), load(offset + c));
            if (mode == REQUANTIZED) x = multiply_shift<false>(x, zero(), *m, clamp);
            if (mode == ADDED) x = multiply_shift<true>(x, load(residual + c, count), *m, clamp);
            store(out + c, x, count);
        }
    }

#ifdef INTVIT_AVX512
    template <bool TWO, class Out, class Residual>
    void whole_rows(const int32_t* sums, int rows, const int32_t* offset, const Multipliers* m, const Residual* residual,
                    int64_t residual_stride, Out* out, int64_t stride) const {
        const auto part = [&](auto count) {
            some_rows<TWO, count>(sums, offset, m, residual, residual_stride, out, stride);
            sums += count * COLUMNS;
            out += count * stride;
            if (TWO) residual += count * residual_stride;
        };
        for (; rows >= 4; rows -= 4) part(std::integral_constant<int, 4>());
        if (rows == 3) part(std::integral_constant<int, 3>());
        if (rows == 2) part(std::integral_constant<int, 2>());
        if (rows == 1) part(std::integral_constant<int, 1>());
    }

    // A few rows of 64 columns at once, which share what they load of the multipliers.
    template <bool TWO, int ROWS, class Out, class Residual>
    void some_rows(const int32_t* sums, const int32_t* offset, const Multipliers* m, const Residual* residual,
                   int64_t residual_stride, Out* out, int64_t stride) const {
        Lanes x[ROWS][COLUMNS / LANES];
#pragma GCC unroll 4
        for (int i = 0; i < COLUMNS / LANES; i++) {
            const Multipliers group = m[i];
            const Lanes bias = load(offset + i * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const Lanes other = TWO ? load(residual + r * residual_stride + i * LANES, LANES) : zero();
                x[r][i] = multiply_shift<TWO>(add(load(sums + r * COLUMNS + i * LANES), bias), other, group, NoClamp());
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) store_row(out + r * stride, x[r], low, high);
    }
#endif

    Mode mode;
    int32_t low, high;
    bool narrow = true;  // every result fits int32 before it is clamped
    vector<Multipliers> groups;
};
