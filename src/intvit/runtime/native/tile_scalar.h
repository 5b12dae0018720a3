// The tile in plain C++.
#pragma once

#define INTVIT_PATH "scalar"
enum { TILE_ROWS = 4, DEPTH = 4 };
using Row = uint8_t;
using Column = int8_t;

inline bool path_supported() { return true; }
struct ThreadState {};
inline int64_t place_in_panel(int64_t k, int64_t c, int64_t) { return k / 4 * 256 + c * 4 + k % 4; }

inline void tile(const Row* a, int64_t depth, int rows, const Column* panel, int groups, int32_t* sums) {
    for (int r = 0; r < rows; r++) {
        const Row* row = a + r * depth;
        for (int c = 0; c < 16 * groups; c++) {
            uint32_t sum = 0;
            for (int64_t k = 0; k < depth; k += 4)
                for (int i = 0; i < 4; i++) sum += uint32_t(row[k + i] * panel[k * COLUMNS + 4 * c + i]);
            sums[r * COLUMNS + c] = int32_t(sum);
        }
    }
}
