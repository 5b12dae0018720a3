// Steps that move entries: strided copies and gathers of rows. memmove, because in a plan that no check has seen input and
// output may overlap.
#include <algorithm>

#include "step.h"

namespace {

// out[i, j, ..] = x[i, j, ..] for views of one shape: slices, transposes, concatenations, patches.
class Copy : public Step {
public:
    explicit Copy(const Plan& plan) : x(plan.input(0)), out(plan.output()), size(size_of(x.type)) {
        require(same_shape(x, out) && size == size_of(out.type), "a copy changes shape or type");
        units = entries(x) / last(x);
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        switch (size) {
            case 1: return copy<uint8_t>(begin, end, memory);
            case 2: return copy<uint16_t>(begin, end, memory);
            case 4: return copy<uint32_t>(begin, end, memory);
            default: return copy<uint64_t>(begin, end, memory);
        }
    }

private:
    template <class T> void copy(int64_t begin, int64_t end, const Memory& memory) const {
        const int64_t n = last(x), step_x = x.strides[x.rank - 1], step_out = out.strides[out.rank - 1];
        const int64_t group = x.rank > 1 ? x.shape[x.rank - 2] : 1;  // of rows that are one stride apart
        const int64_t next_x = x.rank > 1 ? x.strides[x.rank - 2] : 0, next_out = x.rank > 1 ? out.strides[x.rank - 2] : 0;
        for (int64_t row = begin; row < end;) {
            const T* from = reinterpret_cast<const T*>(memory.at(x)) + row_offset(x, row, 1);
            T* to = reinterpret_cast<T*>(memory.at(out)) + row_offset(out, row, 1);
            const int64_t stop = std::min(end, row + group - row % group);
            for (; row < stop; row++, from += next_x, to += next_out)
                if (step_x == 1 && step_out == 1)
                    memmove(to, from, n * sizeof(T));
                else
                    for (int64_t i = 0; i < n; i++) to[i * step_out] = from[i * step_x];
        }
    }

    const View x, out;
    const int64_t size;
};

// x [outer, N, inner] -> [outer, M, inner]: entry index[m] of the middle axis, 0 where it is -1. constants: index int64 [M].
class Gather : public Step {
public:
    explicit Gather(const Plan& plan)
        : x(require_dense(plan.input(0))), out(require_dense(plan.output())), count(plan.step.constants[0].count),
          index(plan.copy<int64_t>(0, I64, std::max<int64_t>(count, 0))) {
        require(x.rank == 3 && out.rank == 3 && x.shape[0] == out.shape[0] && x.shape[2] == out.shape[2] &&
                    out.shape[1] == count && size_of(x.type) == size_of(out.type),
                "a gather changes another axis than its own");
        for (int64_t i : index) require(-1 <= i && i < x.shape[1], "an index is outside the axis");
        units = x.shape[0];
        constants = count * 8;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        const int64_t bytes = x.shape[2] * size_of(x.type);
        for (int64_t outer = begin; outer < end; outer++) {
            const uint8_t* from = memory.at(x) + outer * x.shape[1] * bytes;
            uint8_t* to = memory.at(out) + outer * count * bytes;
            for (int64_t m = 0; m < count; m++, to += bytes)
                if (index[m] < 0)
                    memset(to, 0, bytes);
                else
                    memmove(to, from + index[m] * bytes, bytes);
        }
    }

private:
    const View x, out;
    const int64_t count;
    const vector<int64_t> index;
};

}  // namespace

std::unique_ptr<Step> make_copy(const Plan& plan) { return std::make_unique<Copy>(plan); }
std::unique_ptr<Step> make_gather(const Plan& plan) { return std::make_unique<Gather>(plan); }
