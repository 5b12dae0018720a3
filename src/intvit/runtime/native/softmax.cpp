// Softmax, exponential and weighted_mean, where they stand alone.
#include "softmax.h"

#include "mean.h"
#include "wide.h"

namespace {

// inputs: logits [rows, n], [mask of their shape, strided, 1: excluded]. output: any unsigned type.
// attributes and constant: see SoftmaxRow.
class Softmax : public Step {
public:
    explicit Softmax(const Plan& plan)
        : x(require_dense(plan.input(0))), out(require_dense(plan.output())), mask(plan.step.inputs[1]),
          size(last(x)), row(plan, 0, 0, x.type) {
        require(same_shape(x, out) && size_of(out.type) <= 2, "logits and probabilities do not fit");
        if (mask.buffer >= 0) {
            plan.checked(mask);
            require(same_shape(x, mask) && mask.type == U8 && (size == 1 || mask.strides[mask.rank - 1] == 1), "the mask does not fit");
        }
        units = entries(x) / size;
        scratch = size * 8;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        uint32_t* p = reinterpret_cast<uint32_t*>(memory.scratch);
        for (int64_t i = begin; i < end; i++) {
            const uint8_t* excluded = mask.buffer < 0 ? nullptr : memory.at(mask) + row_offset(mask, i, 1);
            if (x.type == I8)
                row.run(reinterpret_cast<const int8_t*>(memory.at(x)) + i * size, excluded, size, p);
            else
                row.run(reinterpret_cast<const int16_t*>(memory.at(x)) + i * size, excluded, size, p);
            uint8_t* to = memory.at(out) + i * size * size_of(out.type);
            if (size_of(out.type) == 1)
                for (int64_t j = 0; j < size; j++) to[j] = uint8_t(p[j]);
            else
                for (int64_t j = 0; j < size; j++) reinterpret_cast<uint16_t*>(to)[j] = uint16_t(p[j]);
        }
    }

private:
    const View x, out, mask;
    const int64_t size;
    const SoftmaxRow row;
};

// inputs: sums [rows, D] int32, weights [rows, K]. output [rows, D]. attributes: see WeightedMean.
class Mean : public Step {
public:
    explicit Mean(const Plan& plan)
        : sums(require_dense(plan.input(0))), weights(require_dense(plan.input(1))), out(require_dense(plan.output())),
          size(last(sums)), length(last(weights)), mean(plan, 0) {
        require(same_shape(sums, out) && entries(sums) / size == entries(weights) / length, "sums and weights do not fit");
        units = entries(sums) / size;
        scratch = std::max(size, length) * 8;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        int64_t* row = reinterpret_cast<int64_t*>(memory.scratch);
        for (int64_t i = begin; i < end; i++) {
            widen(memory.at(weights) + i * length * size_of(weights.type), weights.type, 1, length, row);
            int64_t total = 0;
            for (int64_t k = 0; k < length; k++) total += row[k];
            widen(memory.at(sums) + i * size * size_of(sums.type), sums.type, 1, size, row);
            mean.run(row, size, total, row);
            narrow(row, size, out.type, memory.at(out) + i * size * size_of(out.type));
        }
    }

private:
    const View sums, weights, out;
    const int64_t size, length;
    const WeightedMean mean;
};

}  // namespace

std::unique_ptr<Step> make_softmax(const Plan& plan) { return std::make_unique<Softmax>(plan); }
std::unique_ptr<Step> make_weighted_mean(const Plan& plan) { return std::make_unique<Mean>(plan); }
