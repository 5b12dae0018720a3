// One row of softmax. Its exponential depends on the distance from the row's maximum alone and is a table for every kind.
#pragma once
#include "bytes.h"
#include "step.h"

class SoftmaxRow {
public:
    enum Normalization { DEFERRED, ROUNDED, FLOOR };

    // attributes first..first+1 of the plan: normalization, bits. Constant `constant`: uint32 [256] or [65536], as many
    // entries as the logits' type has values: any logit stays inside it.
    SoftmaxRow(const Plan& plan, int first, int constant, int32_t logit_type)
        : normalization(Normalization(plan.attribute(first, DEFERRED, FLOOR))), bits(plan.attribute(first + 1, 2, 16)),
          table(plan.copy<uint32_t>(constant, U32, size_of(logit_type) == 1 ? 256 : 65536)) {
        require(logit_type == I8 || logit_type == I16, "logits are not int8 or int16");
        for (uint32_t entry : table) require(entry <= INT32_MAX, "an exponential is not below 2^31");
        if (!bytes_suffice() || logit_type != I8) return;
        for (uint32_t entry : table) byte_table.push_back(uint8_t(entry));
    }

    // Are the results bytes that depend on the distance alone?
    bool bytes_suffice() const { return normalization == DEFERRED && bits <= 8; }

    // x [n] -> p [n], 0 where mask is 1. mask may be null. Returns the sum of p.
    template <class Logit> int64_t run(const Logit* x, const uint8_t* mask, int64_t n, uint32_t* p) const {
        int most = -(1 << (8 * sizeof(Logit) - 1));
        for (int64_t i = 0; i < n; i++)
            if (!mask || !mask[i]) most = std::max<int>(most, x[i]);
        int64_t total = 0;
        for (int64_t i = 0; i < n; i++) {
            p[i] = mask && mask[i] ? 0 : table[most - x[i]];
            total += p[i];
        }
        if (normalization == DEFERRED) return total;
        const bool rounded = normalization == ROUNDED;
        const int64_t reciprocal = total ? ((int64_t(1) << (rounded ? 46 : 31)) - 1) / total : 0;
        const int64_t shift = rounded ? 46 - bits : 32 - bits, half = rounded ? int64_t(1) << (shift - 1) : 0;
        const int64_t highest = (int64_t(1) << (rounded ? bits : bits - 1)) - 1;
        int64_t sum = 0;
        for (int64_t i = 0; i < n; i++) {
            const int64_t v = (p[i] * reciprocal + half) >> shift;
            p[i] = uint32_t(v > highest ? highest : v);
            sum += p[i];
        }
        return sum;
    }

    // The same where bytes suffice. p has `room` entries, at least n; the others become 0.
    int64_t run_bytes(const int8_t* x, const uint8_t* mask, int64_t n, int64_t room, uint8_t* p) const {
        return weigh_by_distance(x, mask, n, room, byte_table.data(), p);
    }

private:
    const Normalization normalization;
    const int64_t bits;
    const vector<uint32_t> table;
    vector<uint8_t> byte_table;
};
