// The tile in plain C++.
#pragma once

#define INTVIT_PATH "scalar"
enum { TILE_ROWS = 4, DEPTH = 4 };  // rows of a tile; the depth is padded to a multiple of DEPTH

inline bool path_supported() { return true; }
struct ThreadState {};  // what a thread needs to call `tile`

// a: rows of `depth` bytes. groups: of 16 columns, 1 to 4; the others of `sums` are left alone.
inline void tile(const uint8_t* a, int64_t depth, int rows, const int8_t* panel, int groups, int32_t* sums) {
    for (int r = 0; r < rows; r++) {
        const uint8_t* row = a + r * depth;
        for (int c = 0; c < 16 * groups; c++) {
            uint32_t sum = 0;
            for (int64_t k = 0; k < depth; k += 4)
                for (int i = 0; i < 4; i++) sum += uint32_t(row[k + i] * panel[k * COLUMNS + 4 * c + i]);
            sums[r * COLUMNS + c] = int32_t(sum);
        }
    }
}
