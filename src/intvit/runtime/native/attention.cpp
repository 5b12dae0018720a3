// Attention, one head of one image or window at a time: query x key, requantize or add a bias, softmax, x value, and the final
// requantize or weighted mean. Between its inputs and its output everything stays in the first-level cache.
//
// inputs: query [.., M, K], key [.., N, K], value [.., N, D], [bias [.., M, N]], [mask [.., M, N]]; output [.., M, D]; all
// strided, but dense along the last axis.
// attributes: 0 mode of the logits (Epilogue::Mode), 1 low, 2 high; 3, 4 SoftmaxRow; 5 whether a weighted mean ends it;
// 6..9 WeightedMean, or 8 low and 9 high of the final requantize.
// constants: 0..2 Epilogue of the logits; 3 SoftmaxRow; 4..6 Epilogue of the final requantize.
#include "epilogue.h"
#include "mean.h"
#include "packed.h"
#include "softmax.h"

namespace {

const View& require_rows(const View& view) {
    require(view.rank >= 2 && (last(view) == 1 || view.strides[view.rank - 1] == 1), "the last axis in attention is not dense");
    return view;
}

enum { UNSIGNED = zero_point_of(false) };  // of the probabilities

class Attention : public Step {
public:
    explicit Attention(const Plan& plan)
        : query(require_rows(plan.input(0))), key(require_rows(plan.input(1))), value(require_rows(plan.input(2))),
          bias(plan.step.inputs[3]), mask(plan.step.inputs[4]), out(require_rows(plan.output())),
          tokens(query.shape[query.rank - 2]), length(key.shape[key.rank - 2]), depth(last(query)), width(last(value)),
          mode(Epilogue::Mode(plan.attribute(0, Epilogue::REQUANTIZED, Epilogue::ADDED))),
          logits(plan, mode, clamp(plan, 1), clamp(plan, 2), 0, length), logit_type(type_of_logits(plan)),
          softmax(plan, 3, 3, logit_type), byte_planes(plan.attribute(4, 2, 16) <= 8 ? 1 : 2),
          averaged(plan.attribute(5, 0, 1)), mean(averaged ? new WeightedMean(plan, 6) : nullptr),
          finish(plan, averaged ? Epilogue::ACCUMULATORS : Epilogue::REQUANTIZED, clamp(plan, 8), clamp(plan, 9), 4, width) {
        check(plan);
        const int64_t heads = entries(query) / (tokens * depth);
        parts = plan.threads == 1 ? 1 : std::min((tokens + TILE_ROWS - 1) / TILE_ROWS, (4 * plan.threads + heads - 1) / heads);
        units = heads * parts;
        lay_out_scratch();
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        for (int64_t unit = begin; unit < end; unit++) {
            const int64_t part = unit % parts, blocks = (tokens + TILE_ROWS - 1) / TILE_ROWS;
            const int64_t first = blocks * part / parts * TILE_ROWS, stop = std::min(blocks * (part + 1) / parts * TILE_ROWS, tokens);
            if (logit_type == I8)
                run_rows<int8_t>(unit / parts, first, stop, memory);
            else
                run_rows<int16_t>(unit / parts, first, stop, memory);
        }
    }

private:
    static int32_t clamp(const Plan& plan, int index) { return int32_t(plan.attribute(index, INT16_MIN, INT16_MAX)); }

    static int32_t type_of_logits(const Plan& plan) {
        return plan.attribute(1, INT16_MIN, 0) >= INT8_MIN && plan.attribute(2, 0, INT16_MAX) <= INT8_MAX ? I8 : I16;
    }

    void check(const Plan& plan) const {
        const int rank = query.rank;
        require(query.type == I8 && key.type == I8 && value.type == I8 && out.type == I8, "operands of attention are not int8");
        require(key.rank == rank && value.rank == rank && out.rank == rank, "operands of attention differ in rank");
        for (int i = 0; i < rank - 2; i++)
            require(query.shape[i] == key.shape[i] && query.shape[i] == value.shape[i] && query.shape[i] == out.shape[i],
                    "leading axes of attention differ");
        require(last(key) == depth && value.shape[rank - 2] == length && out.shape[rank - 2] == tokens && last(out) == width,
                "inner axes of attention differ");
        require(depth < (1 << 23) && length < (1 << 23), "the rows of attention are too long");
        for (const View* view : {&bias, &mask}) {
            if (view == &bias ? mode != Epilogue::ADDED : mask.buffer < 0) continue;
            require_rows(plan.checked(*view));
            require(view->rank == rank && view->shape[rank - 2] == tokens && last(*view) == length, "a bias or mask does not fit");
            for (int i = 0; i < rank - 2; i++) require(view->shape[i] == query.shape[i], "a bias or mask does not fit");
            require(view->type == (view == &mask ? U8 : view->type) && view->type <= U16, "a bias or mask has another type");
        }
    }

    void lay_out_scratch() {
        const int64_t keys = panel_count(length) * COLUMNS;
        const auto take = [this](int64_t bytes) {
            const int64_t place = scratch;
            scratch += round_up(bytes, 64);
            return place;
        };
        key_panels = take(packed_bytes(length, depth));
        key_offset = take(keys * 4);
        value_panels = take(packed_bytes(width, length));
        value_offset = take(panel_count(width) * COLUMNS * 4);
        rows = take(TILE_ROWS * padded_depth(depth) * int64_t(sizeof(Row)));
        sums = take(2 * TILE_ROWS * COLUMNS * 4);
        logit_rows = take(TILE_ROWS * keys * size_of(logit_type));
        probabilities = take(length * 4);
        bytes = take(padded_depth(length));
        planes = take(2 * TILE_ROWS * padded_depth(length) * int64_t(sizeof(Row)));
    }

    template <class Logit> void run_rows(int64_t head, int64_t first, int64_t stop, const Memory& memory) const {
        uint8_t* const base = memory.scratch;
        Column *const keys = reinterpret_cast<Column*>(base + key_panels), *const values = reinterpret_cast<Column*>(base + value_panels);
        pack_transposed(at<int8_t>(memory, key, head), key.strides[key.rank - 2], length, depth, zero_point_of(true), nullptr, keys,
                        reinterpret_cast<int32_t*>(base + key_offset));
        pack_rows(at<int8_t>(memory, value, head), value.strides[value.rank - 2], width, length, values);
        if constexpr (UNSIGNED != 0)
            offsets_of_rows(at<int8_t>(memory, value, head), value.strides[value.rank - 2], width, length,
                            byte_planes == 2 ? 257 * UNSIGNED : UNSIGNED, reinterpret_cast<int32_t*>(base + value_offset));
        const int64_t stride = query.strides[query.rank - 2];
        for (int64_t row = first; row < stop; row += TILE_ROWS) {
            const int count = int(std::min<int64_t>(TILE_ROWS, stop - row));
            copy_rows(at<uint8_t>(memory, query, head) + row * stride, stride, count, depth, true, reinterpret_cast<Row*>(base + rows));
            Logit* x = reinterpret_cast<Logit*>(base + logit_rows);
            switch (mode == Epilogue::ADDED ? bias.type : int32_t(I8)) {
                case I8: compute_logits<Logit, int8_t>(head, row, count, memory, x); break;
                case U8: compute_logits<Logit, uint8_t>(head, row, count, memory, x); break;
                case I16: compute_logits<Logit, int16_t>(head, row, count, memory, x); break;
                default: compute_logits<Logit, uint16_t>(head, row, count, memory, x);
            }
            int64_t totals[TILE_ROWS];
            for (int r = 0; r < count; r++) totals[r] = weigh(x + r * panel_count(length) * COLUMNS, head, row + r, r, memory);
            finish_rows(head, row, count, totals, memory);
        }
    }

    template <class Logit, class Bias>
    void compute_logits(int64_t head, int64_t row, int count, const Memory& memory, Logit* x) const {
        int32_t *accumulators = reinterpret_cast<int32_t*>(memory.scratch + sums), *spare = accumulators + TILE_ROWS * COLUMNS;
        const int32_t* const offset = reinterpret_cast<const int32_t*>(memory.scratch + key_offset);
        const bool added = mode == Epilogue::ADDED;
        const int64_t stride = added ? bias.strides[bias.rank - 2] : 0, padded = padded_depth(depth);
        const Bias* other = added ? at<Bias>(memory, bias, head) + row * stride : nullptr;
        WaitingRows<Logit, Bias> waiting(logits, offset, panel_count(length) * COLUMNS, stride);
        for (int64_t start = 0; start < length; start += COLUMNS) {
            const int columns = int(std::min<int64_t>(COLUMNS, length - start));
            const Column* panel = reinterpret_cast<const Column*>(memory.scratch + key_panels) + start * padded;
            const Row* a = reinterpret_cast<const Row*>(memory.scratch + rows);
            tile_beside(a, padded, count, panel, (columns + 15) / 16, accumulators,
                        [&](int most) { waiting.finish(most); });
            require_exact(a, padded, count, panel, columns, zero_point_of(true), offset + start);
            waiting.start(accumulators, count, start, columns, added ? other + start : nullptr, x + start);
            std::swap(accumulators, spare);
        }
        waiting.finish(TILE_ROWS);
    }

    // Logits of one row -> its bytes in the planes (low, and high if there are more than 8 bits). Returns their sum.
    template <class Logit> int64_t weigh(const Logit* x, int64_t head, int64_t row, int r, const Memory& memory) const {
        const int64_t padded = padded_depth(length);
        const uint8_t* excluded = mask.buffer < 0 ? nullptr : at<uint8_t>(memory, mask, head) + row * mask.strides[mask.rank - 2];
        Row *low = reinterpret_cast<Row*>(memory.scratch + planes) + r * padded, *high = low + TILE_ROWS * padded;
        if (sizeof(Logit) == 1 && softmax.bytes_suffice()) {
            const int8_t* logits = reinterpret_cast<const int8_t*>(x);
            if constexpr (std::is_same_v<Row, uint8_t>) 
                return softmax.run_bytes(logits, excluded, length, padded, reinterpret_cast<uint8_t*>(low));
            uint8_t* p = memory.scratch + bytes;
            const int64_t total = softmax.run_bytes(logits, excluded, length, padded, p);
            fill_plane(low, [&](int64_t i) { return p[i]; });
            return total;
        }
        uint32_t* p = reinterpret_cast<uint32_t*>(memory.scratch + probabilities);
        const int64_t total = softmax.run(x, excluded, length, p);
        fill_plane(low, [&](int64_t i) { return uint8_t(p[i]); });
        if (byte_planes == 2) fill_plane(high, [&](int64_t i) { return uint8_t(p[i] >> 8); });
        return total;
    }

    template <class Byte> void fill_plane(Row* plane, const Byte& byte) const {
        for (int64_t i = 0; i < length; i++) plane[i] = Row(byte(i) + UNSIGNED);
        memset(plane + length, 0, (padded_depth(length) - length) * sizeof(Row));
    }

    void finish_rows(int64_t head, int64_t row, int count, const int64_t* totals, const Memory& memory) const {
        static const int32_t none[COLUMNS] = {};
        [[maybe_unused]] const int32_t* const offsets = reinterpret_cast<const int32_t*>(memory.scratch + value_offset);
        const int64_t padded = padded_depth(length), stride = out.strides[out.rank - 2];
        int32_t *const low = reinterpret_cast<int32_t*>(memory.scratch + sums), *const high = low + TILE_ROWS * COLUMNS;
        const Row* const p = reinterpret_cast<const Row*>(memory.scratch + planes);
        int8_t* target = const_cast<int8_t*>(at<int8_t>(memory, out, head)) + row * stride;
        for (int64_t start = 0; start < width; start += COLUMNS) {
            const int columns = int(std::min<int64_t>(COLUMNS, width - start));
            const Column* panel = reinterpret_cast<const Column*>(memory.scratch + value_panels) + start * padded;
            tile(p, padded, count, panel, (columns + 15) / 16, low);
            if (byte_planes == 2) {
                tile(p + TILE_ROWS * padded, padded, count, panel, (columns + 15) / 16, high);
                for (int i = 0; i < count * COLUMNS; i++) low[i] = int32_t(uint32_t(low[i]) + (uint32_t(high[i]) << 8));
            }
            if constexpr (UNSIGNED != 0)
                for (int i = 0; i < count * COLUMNS; i++) low[i] = int32_t(uint32_t(low[i]) + uint32_t(offsets[start + i % COLUMNS]));
            if (averaged)
                for (int r = 0; r < count; r++) mean->run(low + r * COLUMNS, columns, totals[r], target + r * stride + start);
            else
                finish.apply(low, count, none, start, columns, static_cast<const int8_t*>(nullptr), 0, target + start, stride);
        }
    }

    template <class T> static const T* at(const Memory& memory, const View& view, int64_t head) {
        return reinterpret_cast<const T*>(memory.at(view)) + row_offset(view, head, 2);
    }

    const View query, key, value, bias, mask, out;
    const int64_t tokens, length, depth, width;
    const Epilogue::Mode mode;
    const Epilogue logits;
    const int32_t logit_type;
    const SoftmaxRow softmax;
    const int byte_planes;
    const bool averaged;
    const std::unique_ptr<WeightedMean> mean;
    const Epilogue finish;
    int64_t parts = 1, key_panels = 0, key_offset = 0, value_panels = 0, value_offset = 0, rows = 0, bytes = 0, sums = 0, logit_rows = 0, probabilities = 0, planes = 0;
};

}  // namespace

std::unique_ptr<Step> make_attention(const Plan& plan) { return std::make_unique<Attention>(plan); }
