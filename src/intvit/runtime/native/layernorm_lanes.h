// LayerNorm of rows that fit int16, in vectors: two passes, the sums and the scaling.
//
// Both methods come down to v = (x * factor - center * reciprocal) >> k and clamp((v * multiplier + bias) >> shift), where the
// sums of x and x^2 give the sum of the squared distances from the center exactly.
#pragma once
#include <memory>

#include "epilogue.h"

class LayerNormLanes {
public:
    struct Moments {
        int64_t sum, squares;
    };
    // y = scale * x - center, with |y| <= farthest, times reciprocal.
    struct Factors {
        int64_t scale, center, farthest, reciprocal;
    };

    // Null where values might leave the lanes. bias holds the rounding term of the output.
    static std::unique_ptr<LayerNormLanes> of(int32_t type, int32_t out_type, const vector<int64_t>& multiplier,
                                              const vector<int64_t>& bias, const vector<int64_t>& shift,
                                              const vector<int64_t>& channel_shift, int64_t low, int64_t high) {
        const bool bytes = type == I8 || type == U8, int16 = type == I16 && channel_shift.empty();
        if (!(bytes || int16) || out_type != I8 || low < INT8_MIN || high > INT8_MAX || multiplier.size() > MOST) return nullptr;
        std::unique_ptr<LayerNormLanes> lanes(new LayerNormLanes(type, int64_t(multiplier.size()), int32_t(low), int32_t(high)));
        for (int64_t c = 0; c < lanes->size; c++) {
            const int64_t limit = int64_t(1) << 31;
            if (multiplier[c] <= -limit || multiplier[c] >= limit) return nullptr;
            if (bias[c] <= -(int64_t(1) << 61) || bias[c] >= int64_t(1) << 61) return nullptr;
            if (((std::abs(multiplier[c]) << 31) + std::abs(bias[c])) >> shift[c] > INT32_MAX) return nullptr;
            lanes->groups[c / LANES].set(c % LANES, multiplier[c], 0, shift[c]);
            lanes->groups[c / LANES].half[c % 2][c % LANES / 2] = bias[c];
            if (channel_shift.empty()) continue;
            lanes->shifts[c] = int16_t(channel_shift[c]);
            lanes->powers[c] = int16_t(1 << channel_shift[c]);
        }
        lanes->shifted = !channel_shift.empty();
        return lanes;
    }

    Moments moments(const uint8_t* row) const {
        RowSums sums;
        for (int64_t c = 0; c < size; c += 2 * LANES) sums.add(load_words_at(row, c));
        return {sums.sum(), sums.squares()};
    }

    // v = (y * reciprocal) >> k, and then the output. False, and nothing is written, where a product might leave its lane.
    bool scale(const uint8_t* row, uint8_t* out, const Factors& y, int64_t k) const {
        const int64_t factor = y.scale * y.reciprocal;
        if (factor > INT32_MAX || y.farthest > INT32_MAX || (y.farthest * y.reciprocal) >> k > INT32_MAX) return false;
        const Normalizer normalizer{factor, -y.center * y.reciprocal, k};
        for (int64_t c = 0; c < size; c += COLUMNS) {
            Lanes values[COLUMNS / LANES] = {};
#pragma GCC unroll 4
            for (int i = 0; i < COLUMNS / LANES; i++)
                if (c + i * LANES < size)
                    values[i] = normalize(load_lanes_at(row, c + i * LANES), normalizer, groups[c / LANES + i]);
            store_row(reinterpret_cast<int8_t*>(out) + c, values, int(std::min<int64_t>(size - c, COLUMNS)), low, high);
        }
        return true;
    }

    int64_t bytes() const { return int64_t(groups.size() * sizeof(Multipliers) + shifts.size() * 4); }

private:
    enum { MOST = 1 << 14 };  // channels: 2^14 / 16 sums of 2^15 fit int32

    LayerNormLanes(int32_t type, int64_t size, int32_t low, int32_t high)
        : type(type), size(size), low(low), high(high), groups(round_up(size, 64) / LANES), shifts(round_up(size, 64)),
          powers(round_up(size, 64), 1) {
        for (Multipliers& group : groups)
            for (int lane = 0; lane < LANES; lane++) group.set(lane, 0, 0, 1);
    }

    Words load_words_at(const uint8_t* row, int64_t c) const {
        if (type == I16) return load_words(reinterpret_cast<const int16_t*>(row) + c, size - c);
        const Words x = type == I8 ? load_words(reinterpret_cast<const int8_t*>(row) + c, size - c) : load_words(row + c, size - c);
        return shifted ? multiply(x, &powers[c]) : x;
    }
    Lanes load_lanes_at(const uint8_t* row, int64_t c) const {
        const int count = int(std::min<int64_t>(size - c, LANES));
        if (type == I16) return load(reinterpret_cast<const int16_t*>(row) + c, count);
        const Lanes x = type == I8 ? load(reinterpret_cast<const int8_t*>(row) + c, count) : load(row + c, count);
        return shifted ? shift_left(x, load(&shifts[c], LANES)) : x;
    }

    const int32_t type;
    const int64_t size;
    const int32_t low, high;
    vector<Multipliers> groups;
    vector<int16_t> shifts, powers;  // 2^shift
    bool shifted = false;
};
