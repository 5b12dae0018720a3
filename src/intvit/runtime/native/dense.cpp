// Steps at the end of a program that labels every pixel: coarse scores enlarged by a power of two, and the class of the highest one.
// Both at once, no enlarged score is ever stored.
//
// With s the factor, sums are those of docs/program-format.md written as 2s a + n (b - a), n = 1, 3, .. 2s - 1: of a pair of rows, then of
// a pair of columns. Pairs are counted from the edge, whose copy is the first one's partner: pair t makes the entries t s - s/2 and on.
#include "lanes.h"
#include "wide.h"

namespace {

// x [K, h, w] and its factor, and the memory to enlarge a pair of rows in. Scores of one place stand together.
class Coarse {
public:
    Coarse(const View& x, int64_t factor) : x(x), factor(factor) {
        require(x.rank == 3 && size_of(x.type) <= 4 && x.type != U32, "scores are not [K, h, w] of at most 32 bits");
        require((factor & (factor - 1)) == 0, "a factor is no power of two");
        for (int64_t i = 0; i < factor; i++) odd.push_back(int32_t(2 * i + 1));
        odd.resize(round_up(factor, LANES));
    }

    int64_t classes() const { return x.shape[0]; }
    int64_t width() const { return x.shape[2] * factor; }
    int64_t pairs() const { return x.shape[1] + 1; }
    int64_t row() const { return (x.shape[2] + 2) * classes(); }
    int64_t line() const { return round_up(width() + factor + LANES, 16); }
    int64_t scratch() const { return classes() * 8 + (3 * row() + line()) * 4; }

    struct Rows {
        int64_t* wide;                        // of one place
        int32_t *top, *bottom, *mean, *line;  // [w + 2][K] each; line: of the columns of all pairs
    };
    Rows rows(uint8_t* scratch) const {
        int64_t* wide = reinterpret_cast<int64_t*>(scratch);
        int32_t* top = reinterpret_cast<int32_t*>(wide + classes());
        return {wide, top, top + row(), top + 2 * row(), top + 3 * row()};
    }

    // Pair t of rows.
    void read(int64_t t, const uint8_t* data, const Rows& rows) const {
        const int64_t last = x.shape[1] - 1;
        read_row(std::max<int64_t>(t - 1, 0), data, rows.wide, rows.top);
        read_row(std::min(t, last), data, rows.wide, rows.bottom);
    }

    // Row Y of the output between the pair of rows that was read.
    void blend(int64_t place, const Rows& rows) const {
        const int32_t n = odd[(place + factor / 2) % factor], unit = int32_t(2 * factor);
        for (int64_t i = 0; i < row(); i++) rows.mean[i] = unit * rows.top[i] + n * (rows.bottom[i] - rows.top[i]);
    }

    // Entries of the blended row between each pair of columns: use(t, first entry, count, function of k giving them).
    template <class Use> void columns(const Rows& rows, const Use& use) const {
        const int32_t unit = int32_t(2 * factor);
        for (int64_t t = 0; t <= x.shape[2]; t++) {
            const int32_t *left = rows.mean + t * classes(), *right = left + classes();
            for (int64_t i = 0; i < factor; i += LANES) {
                const Lanes weight = load(&odd[i]);
                const auto at = [&](int64_t k) {
                    return add(spread_32(unit * left[k]), multiply(weight, spread_32(right[k] - left[k])));
                };
                use(t * factor + i, int(std::min<int64_t>(LANES, factor - i)), at);
            }
        }
    }

    // First and last of the rows that lie between pair t.
    int64_t first_row(int64_t t) const { return std::max<int64_t>(t * factor - factor / 2, 0); }

private:
    void read_row(int64_t y, const uint8_t* data, int64_t* wide, int32_t* to) const {
        for (int64_t j = -1; j <= x.shape[2]; j++, to += classes()) {
            const int64_t column = std::min(std::max<int64_t>(j, 0), x.shape[2] - 1);
            const uint8_t* from = data + (y * x.strides[1] + column * x.strides[2]) * size_of(x.type);
            widen(from, x.type, x.strides[0], classes(), wide);
            for (int64_t k = 0; k < classes(); k++) to[k] = int32_t(wide[k]);
        }
    }

    const View x;
    const int64_t factor;
    vector<int32_t> odd;  // weights, filled up with zeros
};

void store_labels(const int32_t* labels, int64_t count, int32_t type, uint8_t* out) {
    if (type == I32) memcpy(out, labels, count * 4);
    else if (type == U8) std::copy(labels, labels + count, out);
    else std::copy(labels, labels + count, reinterpret_cast<uint16_t*>(out));
}

// inputs: x [K, h, w], coarse scores. out: int32 [K, h s, w s], or with `labels` the class of each pixel, [h s, w s] of 8, 16 or 32
// bits. attributes: s.
class Upsample : public Step {
public:
    Upsample(const Plan& plan, bool labels)
        : x(plan.input(0)), out(require_dense(plan.output())), factor(plan.attribute(0, 2, 256)), labels(labels), coarse(x, factor) {
        require(out.rank == (labels ? 2 : 3), "an enlarged output has another rank");
        require(labels ? out.type == U8 || out.type == U16 || out.type == I32 : out.type == I32 && out.shape[0] == x.shape[0],
                "an enlarged output has another type or number of classes");
        require(out.shape[out.rank - 2] == x.shape[1] * factor && last(out) == coarse.width(), "an enlarged output has another size");
        units = coarse.pairs();
        scratch = coarse.scratch();
        constants = factor * 4;
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        const Coarse::Rows rows = coarse.rows(memory.scratch);
        const int64_t height = x.shape[1] * factor, width = coarse.width();
        for (int64_t t = begin; t < end; t++) {
            coarse.read(t, memory.at(x), rows);
            const int64_t stop = std::min(coarse.first_row(t + 1), height);
            for (int64_t y = coarse.first_row(t); y < stop; y++) {
                coarse.blend(y, rows);
                if (labels)
                    label_row(rows, memory.at(out) + y * width * size_of(out.type));
                else
                    store_row(rows, reinterpret_cast<int32_t*>(memory.at(out)) + y * width, height * width);
            }
        }
    }

private:
    void label_row(const Coarse::Rows& rows, uint8_t* to) const {
        coarse.columns(rows, [&](int64_t place, int count, const auto& at) {
            Lanes most = at(0), best = zero();
            for (int64_t k = 1; k < coarse.classes(); k++) keep_larger(at(k), spread_32(int32_t(k)), most, best);
            store(rows.line + place, best, count);
        });
        store_labels(rows.line + factor / 2, coarse.width(), out.type, to);
    }

    void store_row(const Coarse::Rows& rows, int32_t* to, int64_t plane) const {
        for (int64_t k = 0; k < coarse.classes(); k++) {
            coarse.columns(rows, [&](int64_t place, int count, const auto& at) { store(rows.line + place, at(k), count); });
            memcpy(to + k * plane, rows.line + factor / 2, coarse.width() * 4);
        }
    }

    const View x, out;
    const int64_t factor;
    const bool labels;
    const Coarse coarse;
};

// x [K, H, W] -> the index of the largest along K, the lowest of equals: [H, W] of 8, 16 or 32 bits.
class Argmax : public Step {
public:
    explicit Argmax(const Plan& plan) : x(plan.input(0)), out(require_dense(plan.output())) {
        require(x.rank == 3 && out.rank == 2 && out.shape[0] == x.shape[1] && out.shape[1] == x.shape[2],
                "labels have another shape than the scores");
        require(out.type == U8 || out.type == U16 || out.type == I32, "labels have another type");
        units = x.shape[1];
        scratch = x.shape[2] * (8 + 8 + 4);
    }

    void run(int64_t begin, int64_t end, const Memory& memory) const override {
        const int64_t width = x.shape[2];
        int64_t *score = reinterpret_cast<int64_t*>(memory.scratch), *most = score + width;
        int32_t* best = reinterpret_cast<int32_t*>(most + width);
        for (int64_t y = begin; y < end; y++) {
            for (int64_t k = 0; k < x.shape[0]; k++) {
                widen(memory.at(x) + (k * x.strides[0] + y * x.strides[1]) * size_of(x.type), x.type, x.strides[2], width, score);
                for (int64_t i = 0; i < width; i++)
                    if (k == 0 || score[i] > most[i]) {
                        most[i] = score[i];
                        best[i] = int32_t(k);
                    }
            }
            store_labels(best, width, out.type, memory.at(out) + y * width * size_of(out.type));
        }
    }

private:
    const View x, out;
};

}  // namespace

std::unique_ptr<Step> make_upsample(const Plan& plan) { return std::make_unique<Upsample>(plan, false); }
std::unique_ptr<Step> make_upsampled_labels(const Plan& plan) { return std::make_unique<Upsample>(plan, true); }
std::unique_ptr<Step> make_argmax(const Plan& plan) { return std::make_unique<Argmax>(plan); }
