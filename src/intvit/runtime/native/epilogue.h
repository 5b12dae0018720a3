// From the accumulators of a tile to values: add the columns' offsets, then multiply, shift, clamp and store, with a residual
// in the sum if there is one.
#pragma once
#include <algorithm>

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
                fast &= mode == ADDED ? most >> shift[c] <= INT32_MAX : shift[c] >= 32;
            }
            groups[c / LANES].set(c % LANES, real ? x[c] : 0, real ? y[c] : 0, real ? shift[c] : 32);
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
        const Multipliers* m = groups.data() + start / LANES;
        if constexpr (sizeof(Out) <= 2)
            if (fast) {
                if (mode == ADDED) return all_rows<true>(sums, rows, offset, m, columns, residual, residual_stride, out, stride);
                return all_rows<false>(sums, rows, offset, m, columns, residual, residual_stride, out, stride);
            }
        for (int r = 0; r < rows; r++, sums += COLUMNS, out += stride) {
            any_row(sums, offset, m, columns, residual, out);
            if (mode == ADDED) residual += residual_stride;
        }
    }

    int64_t bytes() const { return int64_t(groups.size() * sizeof(Multipliers)); }

private:
    template <class Out, class Residual>
    void any_row(const int32_t* sums, const int32_t* offset, const Multipliers* m, int columns, const Residual* residual,
                 Out* out) const {
        for (int c = 0; c < columns; c += LANES, m++) {
            const int count = columns - c < LANES ? columns - c : LANES;
            Lanes x = add(load(sums + c), load(offset + c));
            if (mode == REQUANTIZED) x = multiply_shift<false>(x, zero(), *m, low, high);
            if (mode == ADDED) x = multiply_shift<true>(x, load(residual + c, count), *m, low, high);
            store(out + c, x, count);
        }
    }

    template <bool TWO, class Out, class Residual>
    void all_rows(const int32_t* sums, int rows, const int32_t* offset, const Multipliers* m, int columns,
                  const Residual* residual, int64_t residual_stride, Out* out, int64_t stride) const {
        const auto part = [&](auto count) {
            some_rows<TWO, count>(sums, offset, m, columns, residual, residual_stride, out, stride);
            sums += count * COLUMNS;
            out += count * stride;
            if (TWO) residual += count * residual_stride;
        };
        for (; rows >= EPILOGUE_ROWS; rows -= EPILOGUE_ROWS) part(std::integral_constant<int, EPILOGUE_ROWS>());
        if constexpr (EPILOGUE_ROWS > 1) {
            if (rows == 3) part(std::integral_constant<int, 3>());
            if (rows == 2) part(std::integral_constant<int, 2>());
            if (rows == 1) part(std::integral_constant<int, 1>());
        }
    }

    // A few rows at once, which share what they load of the multipliers.
    template <bool TWO, int ROWS, class Out, class Residual>
    void some_rows(const int32_t* sums, const int32_t* offset, const Multipliers* m, int columns, const Residual* residual,
                   int64_t residual_stride, Out* out, int64_t stride) const {
        Lanes x[ROWS][COLUMNS / LANES] = {};
#pragma GCC unroll 4
        for (int i = 0; i < COLUMNS / LANES; i++) {
            const int count = std::min<int>(columns - i * LANES, LANES);
            if (count <= 0) break;
            const Multipliers& group = m[i];
            const Lanes bias = load(offset + i * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const Lanes other = TWO ? load(residual + r * residual_stride + i * LANES, count) : zero();
                const Lanes sum = add(load(sums + r * COLUMNS + i * LANES), bias);
                x[r][i] = TWO ? multiply_shift_fitting<true>(sum, other, group) : multiply_shift_high(sum, group);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) store_row(out + r * stride, x[r], columns, low, high);
    }

    Mode mode;
    int32_t low, high;
    bool fast = true;  // every result fits int32 before it is clamped, and one product's shift leaves its lower half alone
    vector<Multipliers> groups;
};

// The sums of a tile that wait for their epilogue, which is worked off a few rows at a time beside the next tile.
template <class Out, class Residual> class WaitingRows {
public:
    // offsets: of all columns. Strides of the output's and the residual's rows count entries.
    WaitingRows(const Epilogue& epilogue, const int32_t* offsets, int64_t stride, int64_t residual_stride)
        : epilogue(epilogue), offsets(offsets), stride(stride), residual_stride(residual_stride) {}

    void start(const int32_t* new_sums, int new_rows, int64_t first_column, int new_columns, const Residual* new_residual,
               Out* new_out) {
        sums = new_sums, rows = new_rows, column = first_column, columns = new_columns, residual = new_residual, out = new_out;
    }

    void finish(int most) {
        const int now = std::min(most, rows);
        if (now <= 0) return;
        epilogue.apply(sums, now, offsets + column, column, columns, residual, residual_stride, out, stride);
        rows -= now;
        sums += now * COLUMNS;
        out += now * stride;
        if (residual) residual += now * residual_stride;
    }

private:
    const Epilogue& epilogue;
    const int32_t* const offsets;
    const int64_t stride, residual_stride;
    const int32_t* sums = nullptr;
    int rows = 0, columns = 0;
    int64_t column = 0;
    const Residual* residual = nullptr;
    Out* out = nullptr;
};
