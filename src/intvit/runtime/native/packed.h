// Operands of the tile: rows of bytes, and columns packed into panels.
//
// A signed row x is stored as x + 128, so that a tile's sum is sum(x * b) + 128 * sum(b): the second part depends on the
// column alone and joins its bias, `offset`. All of it wraps modulo 2^32, and the true sum, of which export has proven that it
// fits int32, comes out exactly.
#pragma once
#include <algorithm>
#include <cstring>

#include "bytes.h"
#include "step.h"
#include "tile.h"

inline int64_t padded_depth(int64_t depth) { return (depth + DEPTH - 1) / DEPTH * DEPTH; }
inline int64_t panel_count(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS; }
inline int64_t packed_bytes(int64_t columns, int64_t depth) { return panel_count(columns) * COLUMNS * padded_depth(depth); }

#ifdef INTVIT_AVX512

// Bytes k .. k + 63 of sixteen rows -> columns c.. of a panel: a transposition of groups of four bytes. There are `rows` rows of
// `depth` bytes; zeros stand for what is beyond them. Adds each row's sum to `sums`.
inline void transpose_rows(const int8_t* b, int64_t stride, int64_t rows, int64_t depth, int8_t* panel, int64_t k, int64_t c,
                           Lanes& sums) {
    const __mmask64 part = first_bytes(depth - k);
    const int64_t groups = std::min<int64_t>(16, (padded_depth(depth) - k) / 4);
    __m512i x[16], y[16];
    for (int i = 0; i < 16; i++) x[i] = _mm512_maskz_loadu_epi8(i < rows ? part : 0, b + i * stride + k);
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)  // x[i + j]: of rows i .. i + 3, group j of each quarter
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + 2 + j]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88), even2 = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xDD), odd2 = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xDD);
        const __m512i column[4] = {_mm512_shuffle_i32x4(even, even2, 0x88), _mm512_shuffle_i32x4(odd, odd2, 0x88),
                                   _mm512_shuffle_i32x4(even, even2, 0xDD), _mm512_shuffle_i32x4(odd, odd2, 0xDD)};
        for (int i = 0; i < 4; i++) {  // quarters of the rows
            if (4 * i + j >= groups) break;
            _mm512_storeu_si512(panel + place_in_panel(k + 16 * i + 4 * j, c), column[i]);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), column[i]);
        }
    }
}

// Four rows of at most 64 bytes -> depth k .. k + 3 of the 64 columns of a panel: an interleaving of bytes. There are `rows` rows
// of `width` bytes; zeros stand for what is beyond them.
inline void interleave_rows(const int8_t* b, int64_t stride, int64_t rows, int64_t width, int8_t* panel, int64_t k) {
    const __mmask64 part = first_bytes(width);
    __m512i x[4], y[4];
    for (int i = 0; i < 4; i++) x[i] = _mm512_maskz_loadu_epi8(i < rows ? part : 0, b + i * stride);
    for (int i = 0; i < 4; i += 2) {
        y[i] = _mm512_unpacklo_epi8(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi8(x[i], x[i + 1]);
    }
    for (int i = 0; i < 2; i++) {  // x[j]: columns 4 j .. 4 j + 3 of each quarter
        x[2 * i] = _mm512_unpacklo_epi16(y[i], y[2 + i]);
        x[2 * i + 1] = _mm512_unpackhi_epi16(y[i], y[2 + i]);
    }
    const __m512i even = _mm512_shuffle_i32x4(x[0], x[1], 0x88), even2 = _mm512_shuffle_i32x4(x[2], x[3], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(x[0], x[1], 0xDD), odd2 = _mm512_shuffle_i32x4(x[2], x[3], 0xDD);
    _mm512_storeu_si512(panel + place_in_panel(k, 0), _mm512_shuffle_i32x4(even, even2, 0x88));
    _mm512_storeu_si512(panel + place_in_panel(k, 16), _mm512_shuffle_i32x4(odd, odd2, 0x88));
    _mm512_storeu_si512(panel + place_in_panel(k, 32), _mm512_shuffle_i32x4(even, even2, 0xDD));
    _mm512_storeu_si512(panel + place_in_panel(k, 48), _mm512_shuffle_i32x4(odd, odd2, 0xDD));
}

#endif

// Column c is row c of b, whose rows are `stride` apart: a linear layer's weight, or the keys. offset[c] = bias[c] - zero_point *
// sum(column c), with room for all columns of the panels; bias may be null. Zeros fill the depth up to its padded one.
inline void pack_transposed(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int zero_point,
                            const int32_t* bias, int8_t* panels, int32_t* offset) {
    const int64_t padded = padded_depth(depth);
#ifdef INTVIT_AVX512
    for (int64_t c = 0; c < columns; c += LANES) {
        int8_t* panel = panels + c / COLUMNS * COLUMNS * padded;
        const __mmask16 part = first(int(std::min<int64_t>(columns - c, LANES)));
        Lanes sums = zero();
        for (int64_t k = 0; k < depth; k += 64)
            transpose_rows(b + c * stride, stride, columns - c, depth, panel, k, c % COLUMNS, sums);
        const Lanes start = bias ? _mm512_maskz_loadu_epi32(part, bias + c) : zero();
        _mm512_storeu_si512(offset + c, _mm512_sub_epi32(start, _mm512_mullo_epi32(sums, _mm512_set1_epi32(zero_point))));
    }
#else
    const int64_t whole = depth / 4 * 4;
    for (int64_t c = 0; c < columns; c++) {
        const int8_t* row = b + c * stride;
        int8_t* panel = panels + c / COLUMNS * COLUMNS * padded;
        for (int64_t k = 0; k < whole; k += 4) memcpy(panel + place_in_panel(k, c % COLUMNS), row + k, 4);
        for (int64_t k = whole; k < padded; k++) panel[place_in_panel(k, c % COLUMNS)] = k < depth ? row[k] : 0;
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; k++) sum += row[k];  // < 2^31: checked depth < 2^23
        offset[c] = int32_t(uint32_t(bias ? bias[c] : 0) - uint32_t(zero_point) * uint32_t(sum));
    }
#endif
}

// Column c is column c of b [depth][columns], whose rows are `stride` apart: the values. What is beyond the depth meets rows that
// are zero there.
inline void pack_rows(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int8_t* panels) {
    const int64_t padded = padded_depth(depth);
    for (int64_t start = 0; start < columns; start += COLUMNS, panels += COLUMNS * padded) {
        const int64_t width = std::min<int64_t>(COLUMNS, columns - start);
#ifdef INTVIT_AVX512
        for (int64_t k = 0; k < depth; k += 4) interleave_rows(b + k * stride + start, stride, depth - k, width, panels, k);
#else
        int64_t k = 0;
        for (; k + 4 <= depth; k += 4)
            for (int64_t c = 0; c < width; c += 16) {
                const int8_t* row = b + k * stride + start + c;
                int8_t* place = panels + place_in_panel(k, c);
                const int64_t count = std::min<int64_t>(16, width - c);
                for (int64_t j = 0; j < count; j++)
                    for (int i = 0; i < 4; i++) place[4 * j + i] = row[i * stride + j];
            }
        for (; k < depth; k++)
            for (int64_t c = 0; c < width; c++) panels[place_in_panel(k, c)] = b[k * stride + start + c];
#endif
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
                const int b = panel[place_in_panel(k, c)];
                column += b;
                sum += b ? (a[r * depth + k] - zero_point) * b : 0;
            }
            sum += int32_t(uint32_t(offset[c]) + uint32_t(zero_point) * uint32_t(column));  // the bias
            require(sum == int32_t(sum), "an accumulator leaves int32");
        }
#endif
}
