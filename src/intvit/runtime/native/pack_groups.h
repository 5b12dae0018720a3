// Packing of packed.h for any panel whose depth lies in groups of DEPTH entries, 16 columns of each side by side.
#pragma once

inline void pack_transposed(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, int zero_point,
                            const int32_t* bias, Column* panels, int32_t* offset) {
    const int64_t padded = padded_depth(depth), whole = depth / DEPTH * DEPTH;
    for (int64_t c = 0; c < columns; c++) {
        const int8_t* row = b + c * stride;
        Column* panel = panels + c / COLUMNS * COLUMNS * padded;
        for (int64_t k = 0; k < whole; k += DEPTH) {
            Column* place = panel + place_in_panel(k, c % COLUMNS, padded);
            for (int i = 0; i < DEPTH; i++) place[i] = row[k + i];
        }
        for (int64_t k = whole; k < padded; k++) panel[place_in_panel(k, c % COLUMNS, padded)] = k < depth ? row[k] : 0;
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; k++) sum += row[k];  // < 2^31: checked depth < 2^23
        offset[c] = int32_t(uint32_t(bias ? bias[c] : 0) - uint32_t(zero_point) * uint32_t(sum));
    }
}

inline void pack_rows(const int8_t* b, int64_t stride, int64_t columns, int64_t depth, Column* panels) {
    const int64_t padded = padded_depth(depth), whole = depth / DEPTH * DEPTH;
    for (int64_t start = 0; start < columns; start += COLUMNS, panels += COLUMNS * padded) {
        const int64_t width = std::min<int64_t>(COLUMNS, columns - start);
        for (int64_t k = 0; k < whole; k += DEPTH)
            for (int64_t c = 0; c < width; c += 16) {
                const int8_t* row = b + k * stride + start + c;
                Column* place = panels + place_in_panel(k, c, padded);
                const int64_t count = std::min<int64_t>(16, width - c);
                for (int64_t j = 0; j < count; j++)
                    for (int i = 0; i < DEPTH; i++) place[DEPTH * j + i] = row[i * stride + j];
            }
        for (int64_t k = whole; k < depth; k++)
            for (int64_t c = 0; c < width; c++) panels[place_in_panel(k, c, padded)] = b[k * stride + start + c];
    }
}
