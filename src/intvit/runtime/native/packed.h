// Operands of the tile: rows, and columns packed into panels.
//
// A row x is stored as x + zero point, so that a tile's sum is sum(x * b) + zero point * sum(b): the second part depends on the
// column alone and is taken away with its bias, in `offset`. All of it wraps modulo 2^32, and the true sum, of which export has
// proven that it fits int32, comes out exactly.
#pragma once
#include <algorithm>
#include <cstring>

#include "bytes.h"
#include "step.h"
#include "tile.h"

inline int64_t padded_depth(int64_t depth) { return (depth + DEPTH - 1) / DEPTH * DEPTH; }
inline int64_t panel_count(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS; }
inline int64_t packed_bytes(int64_t columns, int64_t depth) {
    return panel_count(columns) * COLUMNS * padded_depth(depth) * int64_t(sizeof(Column));
}

// What is added to bytes of this sign to make a Row of them.
constexpr int zero_point_of(bool is_signed) {
    if (sizeof(Row) > 1 || std::is_signed_v<Row> == is_signed) return 0;
    return is_signed ? 128 : -128;
}

// The file gives two functions. What is beyond the depth in a panel meets rows that are zero there, or is zero.
//
// pack_transposed(b, stride, columns, depth, zero_point, bias, panels, offset): column c is row c of b, whose rows are `stride`
// apart: a linear layer's weight, or the keys. offset[c] = bias[c] - zero_point * sum(column c), with room for all columns of
// the panels; bias may be null. Zeros fill the depth up to its padded one.
//
// pack_rows(b, stride, columns, depth, panels): column c is column c of b [depth][columns], whose rows are `stride` apart: the
// values.
#include INTVIT_PACK

// offset[c] = - zero_point * sum(column c) of b [depth][columns].
inline void offsets_of_rows(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int zero_point, int32_t* offset) {
    memset(offset, 0, columns * sizeof(int32_t));
    for (int64_t k = 0; k < depth; k++)
        for (int64_t c = 0; c < columns; c++) offset[c] -= zero_point * b[k * stride + c];
}

// Rows of bytes for the tile.
inline void copy_rows(const uint8_t* x, int64_t stride, int64_t rows, int64_t depth, bool is_signed, Row* a) {
    const int64_t padded = padded_depth(depth);
    const uint8_t flipped = zero_point_of(is_signed) ? 0x80 : 0;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t* from = x + r * stride;
        Row* to = a + r * padded;
        if constexpr (sizeof(Row) == 1)
            for (int64_t k = 0; k < depth; k++) to[k] = Row(from[k] ^ flipped);
        else if (is_signed)
            for (int64_t k = 0; k < depth; k++) to[k] = int8_t(from[k]);
        else
            for (int64_t k = 0; k < depth; k++) to[k] = from[k];
    }
}

// In a debug build: refuses accumulators that leave int32, which export has proven impossible. Elsewhere nothing.
inline void require_exact([[maybe_unused]] const Row* a, [[maybe_unused]] int64_t depth, [[maybe_unused]] int rows,
                          [[maybe_unused]] const Column* panel, [[maybe_unused]] int columns,
                          [[maybe_unused]] int zero_point, [[maybe_unused]] const int32_t* offset) {
#ifdef INTVIT_DEBUG
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            int64_t sum = 0, column = 0;
            for (int64_t k = 0; k < depth; k++) {
                const int b = panel[place_in_panel(k, c, depth)];
                column += b;
                sum += b ? (a[r * depth + k] - zero_point) * b : 0;
            }
            sum += int32_t(uint32_t(offset[c]) + uint32_t(zero_point) * uint32_t(column));  // the bias
            require(sum == int32_t(sum), "an accumulator leaves int32");
        }
#endif
}
