// Functions of a byte as tables of 256 entries: the quantized input, with a table for each channel, and GELU, with one table
// or, for ShiftGELU, with one for each maximum of a row.
//
// x [rows, n] of bytes -> out [rows, n] of 1 or 2 bytes. attributes: mode. constants: tables [count, 256] of the output's type,
// in the order of the bytes 0..255 of an unsigned x and -128..127 of a signed one.
#include "bytes.h"
#include "step.h"

namespace {

enum Mode { ROWS_IN_TURN, ROW_MAXIMUM };  // table = row % count; table = max(0, largest x of the row)

class Lookup : public Step {
public:
    explicit Lookup(const Plan& plan)
        : x(require_dense(plan.input(0))), out(require_dense(plan.output())), size(last(x)),
          mode(Mode(plan.attribute(0, ROWS_IN_TURN, ROW_MAXIMUM))), count(plan.step.constants[0].count / 256),
          width(size_of(out.type)), tables(std::max<int64_t>(count, 0) * 256 * width) {
        require(size_of(x.type) == 1 && width <= 2 && same_shape(x, out), "a table's input or output does not fit");
        require(count >= 1 && (mode == ROWS_IN_TURN || (count == 128 && x.type == I8)), "a table has another size");
        memcpy(tables.data(), plan.constant(0, out.type, count * 256).data, count * 256 * width);
        units = entries(x) / size;
        constants = tables.bytes();
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        const uint8_t flip = x.type == I8 ? 0x80 : 0;
        for (int64_t row = begin; row < end; row++) {
            const uint8_t* from = memory.at(x) + row * size;
            uint8_t* to = memory.at(out) + row * size * width;
            int64_t line = row % count;
            if (mode == ROW_MAXIMUM) line = std::max(0, int(row_maximum(reinterpret_cast<const int8_t*>(from), size)));
            const uint8_t* table = tables.data() + line * 256 * width;
            if (width == 1)
                look_up(from, size, flip, table, to);
            else
                for (int64_t i = 0; i < size; i++) memcpy(to + 2 * i, table + 2 * (from[i] ^ flip), 2);
        }
    }

private:
    const View x, out;
    const int64_t size;
    const Mode mode;
    const int64_t count, width;
    Aligned tables;
};

}  // namespace

std::unique_ptr<Step> make_lookup(const Plan& plan) { return std::make_unique<Lookup>(plan); }
