// Linear layers: packed weights, and what follows the product (nothing, requantize, or add to a residual) on each tile.
//
// inputs: x [rows, K] of bytes, [residual [rows, N]]. output [rows, N]. attributes: mode (Epilogue::Mode), low, high.
// constants: weight int8 [N, K], bias int32 [N], then those of the epilogue.
#include "epilogue.h"
#include "packed.h"

namespace {

enum { CHUNK = 6 << 16 };  // bytes of the rows that are copied at once, for all panels: a part of the second-level cache

class Linear : public Step {
public:
    explicit Linear(const Plan& plan)
        : x(require_dense(plan.input(0))), out(require_dense(plan.output())), residual(plan.step.inputs[1]),
          depth(last(x)), columns(last(out)), rows(entries(x) / depth),
          mode(Epilogue::Mode(plan.attribute(0, 0, 2))), epilogue(plan, mode, clamp(plan, 1), clamp(plan, 2), 2, columns),
          weight(static_cast<const int8_t*>(plan.constant(0, I8, columns * depth).data)),
          panels(packed_bytes(columns, depth)), offset(panel_count(columns) * COLUMNS) {
        require(x.type == I8 || x.type == U8, "the rows of a linear layer are not bytes");
        require(entries(out) == rows * columns, "the output of a linear layer has another number of rows");
        require(depth < (1 << 23), "the rows of a linear layer are too long");
        if (mode == Epilogue::ACCUMULATORS) require(out.type == I32, "accumulators are not int32");
        if (mode == Epilogue::ADDED)
            require(same_shape(require_dense(plan.checked(residual)), out) && residual.type <= U16, "the residual does not fit");
        const vector<int32_t> bias = plan.copy<int32_t>(1, I32, columns);
        pack_transposed(weight, depth, columns, depth, zero_point(), bias.data(), packed(), offset.data());
        divide(plan.threads);
        scratch = chunk * padded_depth(depth) * int64_t(sizeof(Row)) + 64 + 2 * TILE_ROWS * COLUMNS * 4;
        constants = panels.bytes() + int64_t(offset.size()) * 4 + epilogue.bytes();
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        switch (out.type) {
            case I8: return run_to<int8_t>(begin, end, memory);
            case U8: return run_to<uint8_t>(begin, end, memory);
            case I16: return run_to<int16_t>(begin, end, memory);
            case I32: return run_to<int32_t>(begin, end, memory);
            default: return;  // refused by `clamp`
        }
    }

private:
    int32_t clamp(const Plan& plan, int index) const {
        require(out.type == I8 || out.type == U8 || out.type == I16 || out.type == I32, "unknown output of a linear layer");
        return int32_t(plan.attribute(index, INT32_MIN, INT32_MAX));
    }
    int zero_point() const { return zero_point_of(x.type == I8); }
    Column* packed() { return reinterpret_cast<Column*>(panels.data()); }

    // A unit is a chunk of rows times a group of panels; groups are only there to keep all threads busy.
    void divide(int32_t threads) {
        chunk = std::max<int64_t>(TILE_ROWS, CHUNK / (padded_depth(depth) * int64_t(sizeof(Row))) / TILE_ROWS * TILE_ROWS);
        chunk = std::min(chunk, round_up(rows, TILE_ROWS));
        const int64_t chunks = (rows + chunk - 1) / chunk, wanted = threads == 1 ? 1 : 4 * threads;
        groups = std::min((wanted + chunks - 1) / chunks, panel_count(columns));
        units = chunks * groups;
    }

    template <class Out> void run_to(int64_t begin, int64_t end, const Memory& memory) const {
        if (mode != Epilogue::ADDED) return run_with<Out, int8_t>(begin, end, memory);
        switch (residual.type) {
            case I8: return run_with<Out, int8_t>(begin, end, memory);
            case U8: return run_with<Out, uint8_t>(begin, end, memory);
            case I16: return run_with<Out, int16_t>(begin, end, memory);
            default: return run_with<Out, uint16_t>(begin, end, memory);
        }
    }

    template <class Out, class Residual> void run_with(int64_t begin, int64_t end, const Memory& memory) const {
        const int64_t padded = padded_depth(depth), count = panel_count(columns), panel_size = COLUMNS * padded;
        Row* a = reinterpret_cast<Row*>(memory.scratch);
        int32_t *sums = reinterpret_cast<int32_t*>(memory.scratch + round_up(chunk * padded * int64_t(sizeof(Row)), 64)), *spare = sums + TILE_ROWS * COLUMNS;
        const uint8_t* source = memory.at(x);
        const Residual* other = mode == Epilogue::ADDED ? reinterpret_cast<const Residual*>(memory.at(residual)) : nullptr;
        Out* target = reinterpret_cast<Out*>(memory.at(out));
        WaitingRows<Out, Residual> waiting(epilogue, offset.data(), columns, columns);
        for (int64_t unit = begin; unit < end; unit++) {
            const int64_t first = unit / groups * chunk, size = std::min(chunk, rows - first), group = unit % groups;
            const int64_t part = round_up(panel_size * TILE_ROWS / round_up(size, TILE_ROWS), 64);
            const int64_t first_panel = group * count / groups;
            const Column* panel = reinterpret_cast<const Column*>(panels.data()) + first_panel * panel_size;
            for (int64_t r = 0; r < size; r += TILE_ROWS) {
                prefetch_beside(panel + r / TILE_ROWS * part, part);
                copy_rows(source + (first + r) * depth, depth, std::min<int64_t>(TILE_ROWS, size - r), depth,
                          x.type == I8, a + r * padded);
            }
            for (int64_t p = first_panel; p < (group + 1) * count / groups; p++, panel += panel_size) {
                const int width = int(std::min<int64_t>(COLUMNS, columns - p * COLUMNS));
                for (int64_t r = 0; r < size; r += TILE_ROWS) {
                    if (p + 1 < count) prefetch_beside(panel + panel_size + r / TILE_ROWS * part, part);
                    const int count_rows = int(std::min<int64_t>(TILE_ROWS, size - r));
                    tile_beside(a + r * padded, padded, count_rows, panel, (width + 15) / 16, sums,
                                [&](int most) { waiting.finish(most); });
                    require_exact(a + r * padded, padded, count_rows, panel, width, zero_point(), offset.data() + p * COLUMNS);
                    const int64_t place = (first + r) * columns + p * COLUMNS;
                    waiting.start(sums, count_rows, p * COLUMNS, width, other ? other + place : nullptr, target + place);
                    std::swap(sums, spare);
                }
            }
            waiting.finish(TILE_ROWS);
        }
    }

    const View x, out, residual;
    const int64_t depth, columns, rows;
    const Epilogue::Mode mode;
    const Epilogue epilogue;
    const int8_t* const weight;  // the caller's, until it is packed
    Aligned panels;
    vector<int32_t> offset;
    int64_t chunk = 0, groups = 1;
};

}  // namespace

std::unique_ptr<Step> make_linear(const Plan& plan) { return std::make_unique<Linear>(plan); }
