// Requantize and add, where they stand alone. attributes: low, high of the output.
#include "epilogue.h"
#include "wide.h"

namespace {

// inputs: x [rows, C], [y [repeat, C], repeated along the first rows]. constants: multipliers, multipliers of y, shifts,
// int64 [C].
class MultiplyShift : public Step {
public:
    MultiplyShift(const Plan& plan, bool two)
        : x(require_dense(plan.input(0))), y(two ? require_dense(plan.input(1)) : x), out(require_dense(plan.output())),
          two(two), size(last(x)), low(plan.attribute(0, INT32_MIN, UINT32_MAX)), high(plan.attribute(1, INT32_MIN, UINT32_MAX)),
          multiplier(plan.copy<int64_t>(0, I64, size)), multiplier_y(two ? plan.copy<int64_t>(1, I64, size) : vector<int64_t>(size)),
          shift(plan.copy<int64_t>(2, I64, size)) {
        require(same_shape(x, out), "input and output differ in shape");
        require(last(y) == size && entries(x) % entries(y) == 0, "the second input does not repeat along the first");
        for (int64_t c = 0; c < size; c++) Epilogue::check(multiplier[c], multiplier_y[c], shift[c]);
        units = entries(x) / size;
        scratch = 2 * size * 8;
        constants = 3 * size * 8;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        int64_t *a = reinterpret_cast<int64_t*>(memory.scratch), *b = a + size;
        for (int64_t row = begin; row < end; row++) {
            widen(memory.at(x) + row * size * size_of(x.type), x.type, 1, size, a);
            for (int64_t c = 0; c < size; c++) a[c] *= multiplier[c];
            if (two) {
                widen(memory.at(y) + row * size % entries(y) * size_of(y.type), y.type, 1, size, b);
                for (int64_t c = 0; c < size; c++) a[c] += b[c] * multiplier_y[c];
            }
            for (int64_t c = 0; c < size; c++) a[c] = rounding_shift(a[c], shift[c], low, high);
            narrow(a, size, out.type, memory.at(out) + row * size * size_of(out.type));
        }
    }

private:
    const View x, y, out;
    const bool two;
    const int64_t size, low, high;
    const vector<int64_t> multiplier, multiplier_y, shift;
};

}  // namespace

std::unique_ptr<Step> make_requantize(const Plan& plan) { return std::make_unique<MultiplyShift>(plan, false); }
std::unique_ptr<Step> make_add(const Plan& plan) { return std::make_unique<MultiplyShift>(plan, true); }
