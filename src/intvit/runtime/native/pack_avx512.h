// Packing of packed.h with AVX-512, for panels whose depth lies in groups of four bytes, 16 columns of each side by side.
#pragma once

// Bytes k .. k + 63 of sixteen rows -> columns c.. of a panel: a transposition of groups of four bytes. There are `rows` rows of
// `depth` bytes; zeros stand for what is beyond them. Adds each row's sum to `sums`.
inline void transpose_rows(const int8_t* b, int64_t stride, int64_t rows, int64_t depth, Column* panel, int64_t k, int64_t c,
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
            _mm512_storeu_si512(panel + place_in_panel(k + 16 * i + 4 * j, c, 0), column[i]);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), column[i]);
        }
    }
}

// Four rows of at most 64 bytes -> depth k .. k + 3 of the 64 columns of a panel: an interleaving of bytes. There are `rows` rows
// of `width` bytes; zeros stand for what is beyond them.
inline void interleave_rows(const int8_t* b, int64_t stride, int64_t rows, int64_t width, Column* panel, int64_t k) {
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
    _mm512_storeu_si512(panel + place_in_panel(k, 0, 0), _mm512_shuffle_i32x4(even, even2, 0x88));
    _mm512_storeu_si512(panel + place_in_panel(k, 16, 0), _mm512_shuffle_i32x4(odd, odd2, 0x88));
    _mm512_storeu_si512(panel + place_in_panel(k, 32, 0), _mm512_shuffle_i32x4(even, even2, 0xDD));
    _mm512_storeu_si512(panel + place_in_panel(k, 48, 0), _mm512_shuffle_i32x4(odd, odd2, 0xDD));
}

inline void pack_transposed(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int zero_point,
                            const int32_t* bias, Column* panels, int32_t* offset) {
    const int64_t padded = padded_depth(depth);
    for (int64_t c = 0; c < columns; c += LANES) {
        Column* panel = panels + c / COLUMNS * COLUMNS * padded;
        const __mmask16 part = first(int(std::min<int64_t>(columns - c, LANES)));
        Lanes sums = zero();
        for (int64_t k = 0; k < depth; k += 64)
            transpose_rows(b + c * stride, stride, columns - c, depth, panel, k, c % COLUMNS, sums);
        const Lanes start = bias ? _mm512_maskz_loadu_epi32(part, bias + c) : zero();
        _mm512_storeu_si512(offset + c, _mm512_sub_epi32(start, _mm512_mullo_epi32(sums, _mm512_set1_epi32(zero_point))));
    }
}

inline void pack_rows(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, Column* panels) {
    const int64_t padded = padded_depth(depth);
    for (int64_t start = 0; start < columns; start += COLUMNS, panels += COLUMNS * padded) {
        const int64_t width = std::min<int64_t>(COLUMNS, columns - start);
        for (int64_t k = 0; k < depth; k += 4) interleave_rows(b + k * stride + start, stride, depth - k, width, panels, k);
    }
}
