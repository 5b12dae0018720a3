// LayerNorm over the last axis: x [rows, C] of at most 16 bits -> [rows, C].
//
// attributes: method (Method), low, high, normalizer shift, Newton steps, square shift. constants: multiplier, bias, shift and,
// in some, the channel shift, int64 [C].
#include "layernorm_lanes.h"
#include "roots.h"
#include "wide.h"

namespace {

enum Method { EXACT, IVIT, IBERT };

class LayerNorm : public Step {
public:
    explicit LayerNorm(const Plan& plan)
        : x(require_dense(plan.input(0))), out(require_dense(plan.output())), size(last(x)),
          method(Method(plan.attribute(0, EXACT, IBERT))), low(plan.attribute(1, INT16_MIN, INT16_MAX)),
          high(plan.attribute(2, INT16_MIN, INT16_MAX)), normalizer_shift(plan.attribute(3, 0, 62)),
          newton_steps(plan.attribute(4, 0, 16)), square_shift(plan.attribute(5, 0, 31)),
          multiplier(plan.copy<int64_t>(0, I64, size)), bias(plan.copy<int64_t>(1, I64, size)),
          shift(plan.copy<int64_t>(2, I64, size)),
          channel_shift(plan.has_constant(3) ? plan.copy<int64_t>(3, I64, size) : vector<int64_t>()) {
        require(same_shape(x, out) && size_of(x.type) <= 2, "input and output of a LayerNorm do not fit");
        for (int64_t c = 0; c < size; c++) {
            require(1 <= shift[c] && shift[c] <= 62, "a shift is outside 1..62");
            bias[c] += int64_t(1) << (shift[c] - 1);  // the rounding term of the output
        }
        for (int64_t places : channel_shift) require(0 <= places && places <= 7, "a channel shift is outside 0..7");
        if (square_shift == 0 && newton_steps == 0)
            lanes = LayerNormLanes::of(x.type, out.type, multiplier, bias, shift, channel_shift, low, high);
        units = entries(x) / size;
        scratch = size * 8;
        constants = 4 * size * 8 + (lanes ? lanes->bytes() : 0);
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        enum { BATCH = 8 };  // rows whose divisions the processor does at the same time
        const auto from = [&](int64_t row) { return memory.at(x) + row * size * size_of(x.type); };
        const auto to = [&](int64_t row) { return memory.at(out) + row * size * size_of(out.type); };
        for (int64_t first = begin; first < end; first += BATCH) {
            const int64_t stop = std::min<int64_t>(first + BATCH, end);
            LayerNormLanes::Moments moments[BATCH];
            LayerNormLanes::Factors factors[BATCH];
            for (int64_t row = first; lanes && row < stop; row++) moments[row - first] = lanes->moments(from(row));
            for (int64_t row = first; lanes && row < stop; row++) factors[row - first] = factors_of(moments[row - first]);
            for (int64_t row = first; row < stop; row++)
                if (!lanes || !lanes->scale(from(row), to(row), factors[row - first], normalizer_shift))
                    run_row(from(row), to(row), reinterpret_cast<int64_t*>(memory.scratch));
        }
    }

private:
    LayerNormLanes::Factors factors_of(const LayerNormLanes::Moments& moments) const {
        const int64_t sum = moments.sum, count = size;
        if (method == EXACT) {  // y = count * x - sum
            const int64_t root = integer_sqrt(count * moments.squares - sum * sum);  // of sum(y^2) / count
            return {count, sum, root_of_size * (root + 1), root > 0 ? (int64_t(1) << 40) / root : 0};
        }
        const int64_t mean = floor_divide(2 * sum + count, 2 * count);  // y = x - mean
        const int64_t root = integer_sqrt(moments.squares - 2 * mean * sum + count * mean * mean);  // of sum(y^2)
        return {1, mean, root + 1, root > 0 ? INT32_MAX / root : 0};
    }

    // Any row, without vectors. y: room for its values.
    void run_row(const uint8_t* from, uint8_t* to, int64_t* y) const {
        widen(from, x.type, 1, size, y);
        if (!channel_shift.empty())
            for (int64_t c = 0; c < size; c++) y[c] <<= channel_shift[c];
        scale(y, method == EXACT ? center_exactly(y) : center(y));
        narrow(y, size, out.type, to);
    }

    // y = clamp((((y * reciprocal) >> k) * multiplier + bias + 2^(shift-1)) >> shift)
    void scale(int64_t* __restrict y, int64_t reciprocal) const {
        const int64_t *__restrict m = multiplier.data(), *__restrict b = bias.data(), *__restrict e = shift.data();
        const int64_t k = normalizer_shift, least = low, most = high, count = size;
        for (int64_t c = 0; c < count; c++) {
            int64_t v = (((y[c] * reciprocal) >> k) * m[c] + b[c]) >> e[c];
            v = v < least ? least : v;
            y[c] = v > most ? most : v;
        }
    }

    // y = C * x - S; floor(2^40 / R) with R = floor(sqrt(C * sum(x^2) - S^2)).
    int64_t center_exactly(int64_t* y) const {
        int64_t sum = 0, squares = 0;
        for (int64_t c = 0; c < size; c++) {
            sum += y[c];
            squares += y[c] * y[c];
        }
        for (int64_t c = 0; c < size; c++) y[c] = y[c] * size - sum;
        const int64_t root = integer_sqrt(size * squares - sum * sum);
        return root > 0 ? (int64_t(1) << 40) / root : 0;
    }

    // y = x - rounded mean; floor((2^31 - 1) / R) with R the root of the sum of squares.
    int64_t center(int64_t* __restrict y) const {
        int64_t sum = 0, squares = 0;
        const int64_t count = size, places = square_shift;
        for (int64_t c = 0; c < count; c++) sum += y[c];
        const int64_t mean = floor_divide(2 * sum + size, 2 * size);
        for (int64_t c = 0; c < count; c++) {
            y[c] -= mean;
            const int64_t z = y[c] >> places;
            squares += z * z;
        }
        if (squares <= 0) return 0;
        int64_t root = integer_sqrt(squares) << square_shift;
        if (newton_steps) {
            root = 1 << 16;
            for (int64_t i = 0; i < newton_steps; i++) root = (root + squares / std::max<int64_t>(root, 1)) >> 1;
        }
        return INT32_MAX / std::max<int64_t>(root, 1);
    }

    const View x, out;
    const int64_t size, root_of_size = integer_sqrt(size) + 1;
    const Method method;
    const int64_t low, high, normalizer_shift, newton_steps, square_shift;
    const vector<int64_t> multiplier;
    vector<int64_t> bias;
    const vector<int64_t> shift, channel_shift;
    std::unique_ptr<LayerNormLanes> lanes;  // null where the values do not fit them
};

}  // namespace

std::unique_ptr<Step> make_layernorm(const Plan& plan) { return std::make_unique<LayerNorm>(plan); }
