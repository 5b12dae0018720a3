// Operands of the tile: rows of bytes, and columns packed into panels.
//
// A signed row x is stored as x + 128, so that a tile's sum is sum(x * b) + 128 * sum(b): the second part depends on the
// column alone and joins its bias, `offset`. All of it wraps modulo 2^32, and the true sum, of which export has proven that it
// fits int32, comes out exactly.
#pragma once
#include <algorithm>
#include <cstring>

#include "step.h"
#include "tile.h"

inline int64_t padded_depth(int64_t depth) { return (depth + DEPTH - 1) / DEPTH * DEPTH; }
inline int64_t panel_count(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS; }
inline int64_t packed_bytes(int64_t columns, int64_t depth) { return panel_count(columns) * COLUMNS * padded_depth(depth); }

// Column c is row c of b, whose rows are `stride` apart: a linear layer's weight, or the keys. offset[c] = bias[c] - zero *
// sum(column c), for all columns of the panels; bias may be null. The panels are zeroed by the caller where nothing is packed.
inline void pack_transposed(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int zero_point,
                            const int32_t* bias, int8_t* panels, int32_t* offset) {
    const int64_t whole = depth / 4 * 4, padded = padded_depth(depth);
    for (int64_t c = 0; c < columns; c++) {
        const int8_t* row = b + c * stride;
        int8_t* place = panels + c / COLUMNS * COLUMNS * padded + c % COLUMNS * 4;
        for (int64_t k = 0; k < whole; k += 4) memcpy(place + k * COLUMNS, row + k, 4);
        for (int64_t k = whole; k < depth; k++) place[whole * COLUMNS + k % 4] = row[k];
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; k++) sum += row[k];  // < 2^31: checked depth < 2^23
        offset[c] = int32_t(uint32_t(bias ? bias[c] : 0) - uint32_t(zero_point) * uint32_t(sum));
    }
}

// Column c is column c of b [depth][columns], whose rows are `stride` apart: the values.
inline void pack_rows(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int8_t* panels) {
    const int64_t padded = padded_depth(depth);
    for (int64_t start = 0; start < columns; start += COLUMNS, panels += COLUMNS * padded) {
        const int64_t width = std::min<int64_t>(COLUMNS, columns - start);
        for (int64_t k = 0; k + 4 <= depth; k += 4) {
            const int8_t* row = b + k * stride + start;
            int8_t* place = panels + k * COLUMNS;
            for (int64_t c = 0; c < width; c++)
                for (int i = 0; i < 4; i++) place[4 * c + i] = row[i * stride + c];
        }
        for (int64_t k = depth / 4 * 4; k < depth; k++)
            for (int64_t c = 0; c < width; c++) panels[k / 4 * 4 * COLUMNS + 4 * c + k % 4] = b[k * stride + start + c];
    }
}

// Rows of bytes for the tile: x ^ flip, where flip = 0x80 makes x + 128 of a signed x.
inline void copy_rows(const uint8_t* x, int64_t stride, int64_t rows, int64_t depth, uint8_t flip, uint8_t* a) {
    const int64_t padded = padded_depth(depth);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < depth; k++) a[r * padded + k] = x[r * stride + k] ^ flip;
}

// In a debug build: refuses accumulators that leave int32, which export has proven impossible. Elsewhere nothing.
inline void require_exact([[maybe_unused]] const uint8_t* a, [[maybe_unused]] int64_t depth, [[maybe_unused]] int rows,
                          [[maybe_unused]] const int8_t* panel, [[maybe_unused]] int columns,
                          [[maybe_unused]] int zero_point, [[maybe_unused]] const int32_t* offset) {
#ifdef INTVIT_DEBUG
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            int64_t sum = 0, column = 0;
            for (int64_t k = 0; k < depth; k++) {
                const int b = panel[k / 4 * 4 * COLUMNS + 4 * c + k % 4];
                column += b;
                sum += b ? (a[r * depth + k] - zero_point) * b : 0;
            }
            sum += int32_t(uint32_t(offset[c]) + uint32_t(zero_point) * uint32_t(column));  // the bias
            require(sum == int32_t(sum), "an accumulator leaves int32");
        }
#endif
}
