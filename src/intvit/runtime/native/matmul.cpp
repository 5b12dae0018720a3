// The matrix product of any two integer tensors, strided, without packing: for what the fused steps do not take.
//
// inputs: a [.., M, K], b [.., K, N]. output int32 [.., M, N]. constants: [bias int32 [N]].
#include "wide.h"

namespace {

class MatMul : public Step {
public:
    explicit MatMul(const Plan& plan)
        : a(plan.input(0)), b(plan.input(1)), out(plan.output()), depth(last(a)), columns(last(out)),
          bias(plan.has_constant(0) ? plan.copy<int32_t>(0, I32, columns) : vector<int32_t>(columns)) {
        const int rank = a.rank;
        require(rank >= 2 && b.rank == rank && out.rank == rank && out.type == I32 && out.strides[rank - 1] == 1, "a product does not fit");
        for (int i = 0; i < rank - 2; i++)
            require(a.shape[i] == b.shape[i] && a.shape[i] == out.shape[i], "leading axes of a product differ");
        require(b.shape[rank - 2] == depth && a.shape[rank - 2] == out.shape[rank - 2] && last(b) == columns,
                "inner axes of a product differ");
        units = entries(out) / columns;
        scratch = (depth + 2 * columns) * 8;
        constants = columns * 4;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        int64_t *row = reinterpret_cast<int64_t*>(memory.scratch), *terms = row + depth, *sums = terms + columns;
        const int rank = a.rank;
        for (int64_t i = begin; i < end; i++) {
            const int64_t matrix = i / out.shape[rank - 2];
            widen(memory.at(a) + row_offset(a, i, 1) * size_of(a.type), a.type, a.strides[rank - 1], depth, row);
            for (int64_t n = 0; n < columns; n++) sums[n] = bias[n];
            const uint8_t* start = memory.at(b) + row_offset(b, matrix, 2) * size_of(b.type);
            for (int64_t k = 0; k < depth; k++) {
                widen(start + k * b.strides[rank - 2] * size_of(b.type), b.type, b.strides[rank - 1], columns, terms);
                for (int64_t n = 0; n < columns; n++) sums[n] += row[k] * terms[n];
            }
#ifdef INTVIT_DEBUG
            for (int64_t n = 0; n < columns; n++) require(sums[n] == int32_t(sums[n]), "an accumulator leaves int32");
#endif
            narrow(sums, columns, I32, memory.at(out) + row_offset(out, i, 1) * 4);
        }
    }

private:
    const View a, b, out;
    const int64_t depth, columns;
    const vector<int32_t> bias;
};

}  // namespace

std::unique_ptr<Step> make_matmul(const Plan& plan) { return std::make_unique<MatMul>(plan); }
