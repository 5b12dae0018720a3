"""The C text of attention: products, logits, weights and their mean, a few queries at a time. Marks: `template`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intvit.export.c.steps import Kernel
from intvit.export.c.template import (
    LIMITS,
    SCALE_FIELDS,
    SCALE_READS,
    c_type,
    joined,
    kernel,
    normalized,
    numerator,
    scaled,
    short,
)


@dataclass(frozen=True)
class AttentionForm:
    """What one kernel of attention does; equal forms share a kernel.

    logits, last: how products and sums end, "requantize" or "add", "requantize" or "weighted_mean". normalization: of
    softmax, "" where the division comes last. weight: the type of the weights while they are in use, int16 or int32.
    """

    query: np.dtype
    key: np.dtype
    value: np.dtype
    output: np.dtype
    table: np.dtype
    weight: np.dtype
    logits: str
    bias: np.dtype | None
    masked: bool
    normalization: str
    bits: int
    last: str

    @property
    def name(self) -> str:
        kinds = [self.query, self.key, self.value, self.table, self.weight, self.output]
        parts = ["attention", self.normalization or "deferred", str(self.bits), *map(short, kinds)]
        if self.bias is not None:
            parts.append("bias_" + short(self.bias))
        return "_".join([*parts, *["masked"] * self.masked, *["requantized"] * (self.last == "requantize")])


_ATTENTION = """
struct $NAME {
    int32_t batches, heads, queries, keys, size, value_size;
    int32_t query[3], key[3], value[3], output[3]; /* entries to the next batch, head and row */
$EXTRA_FIELDS
$FIELDS
    int32_t last; /* of the table, which stays what it is from there on */
    CONSTANT($TABLE) table;
$END_FIELDS
};

/* logits of one query -> weights, in place$RETURNS */
static $RESULT $NAME_weights(const struct $NAME *p, $W *row$MASK_ROW)
{
    const $TABLE *table = READ($TABLE, p->table);
    int32_t j, maximum = INT32_MIN;
    int64_t sum = 0$FACTOR;
    for (j = 0; j < p->keys; j++)
        if ($HIGHER)
            maximum = row[j];
$SUMS
}

/* query by query, $ROWS at once: wide holds the queries, rows their logits, line a key or a column of the values */
static void $NAME(const struct $NAME *p, const $Q *query, const $K *key, const $V *value,
                  $EXTRA$Y *output, int16_t *wide, $W *rows, int16_t *line)
{
$READS
    int32_t b, h, first, i, j, d, count;
    for (b = 0; b < p->batches; b++)
        for (h = 0; h < p->heads; h++)
            for (first = 0; first < p->queries; first += count) {
                const $Q *q = query + b * p->query[0] + h * p->query[1] + first * p->query[2];
                const $K *k = key + b * p->key[0] + h * p->key[1];
                const $V *v = value + b * p->value[0] + h * p->value[1];
                $Y *y = output + b * p->output[0] + h * p->output[1] + first * p->output[2];
$LOCALS
                count = block_rows(p->queries - first);
                for (i = 0; i < count; i++)
                    $WIDEN_Q(q + i * p->query[2], wide + i * p->size, p->size);
                for (j = 0; j < p->keys; j++) {
                    $WIDEN_K(k + j * p->key[2], line, p->size);
                    for (i = 0; i < count; i++)
                        rows[i * p->keys + j] = ($W)$LOGIT;
                }
                for (i = 0; i < count; i++)
                    $WEIGHTS;
                for (d = 0; d < p->value_size; d++) {
                    for (j = 0; j < p->keys; j++)
                        line[j] = v[j * p->value[2] + d];
                    for (i = 0; i < count; i++)
                        y[i * p->output[2] + d] = ($Y)$END;
                }
            }
}"""


def attention(form: AttentionForm) -> Kernel:
    """Products, logits, weights and their mean, a few rows at a time: no tensor of all logits."""
    product = "dot_i16(wide + i * p->size, line, p->size)"
    weighted = f"dot_{short(form.weight)}(rows + i * p->keys, line, p->keys)"
    deferred = form.last == "weighted_mean"
    fields, extra, local, reads = [], "", [], [SCALE_READS[form.logits]]
    logit = scaled(product, "j")
    block = (
        " " * 16 + "const {kind} *{name} = {source} + b * p->{source}[0] + h * p->{source}[1] + first * p->{source}[2];"
    )
    if form.bias is not None:
        fields.append("    int32_t bias[4]; /* entries to the next batch, head, row and key */")
        extra += f"const {c_type(form.bias)} *bias, "
        local.append(block.format(kind=c_type(form.bias), name="o", source="bias"))
        logit = joined(product, "o[i * p->bias[2] + j * p->bias[3]]", "j")
    if form.masked:
        fields.append("    int32_t mask[3];")
        extra += "const uint8_t *mask, "
        local.append(block.format(kind="uint8_t", name="out", source="mask"))
    weights = f"{form.name}_weights(p, rows + i * p->keys{', out + i * p->mask[2]' * form.masked})"
    if deferred:
        local.append("                int64_t factor[$ROWS];")
        end = f"rescale({weighted} * factor[i], p->end_shift, p->end_low, p->end_high)"
        weights = f"factor[i] = p->end_multiplier / {weights}"
        end_fields = ["    int64_t end_multiplier;", "    int32_t end_shift;"]
    else:
        end_fields = ["    CONSTANT(int32_t) end_multiplier;", "    CONSTANT(uint8_t) end_shift;"]
        reads.append("    const int32_t *end_multiplier = READ(int32_t, p->end_multiplier);")
        reads.append("    const uint8_t *end_shift = READ(uint8_t, p->end_shift);")
        end = f"rescale((int64_t){weighted} * end_multiplier[d], end_shift[d], p->end_low, p->end_high)"
    return kernel(
        form.name,
        _ATTENTION.replace("$NAME_weights", form.name + "_weights").replace("$LOCALS", "\n".join(local)),
        EXTRA_FIELDS="\n".join(fields),
        FIELDS=SCALE_FIELDS[form.logits],
        END_FIELDS="\n".join([*end_fields, LIMITS.replace("low, high", "end_low, end_high")]),
        RETURNS="; returns their sum" if deferred else "",
        RESULT="int64_t" if deferred else "void",
        MASK_ROW=", const uint8_t *mask" if form.masked else "",
        FACTOR="" if deferred else ", factor",
        HIGHER="!mask[j] && row[j] > maximum" if form.masked else "row[j] > maximum",
        SUMS=_weights(form),
        EXTRA=extra,
        READS="\n".join(reads),
        WIDEN_Q=f"widen_{short(form.query)}",
        WIDEN_K=f"widen_{short(form.key)}",
        LOGIT=logit,
        WEIGHTS=weights,
        END=end,
        TABLE=form.table,
        W=form.weight,
        Q=form.query,
        K=form.key,
        V=form.value,
        Y=form.output,
    )


def _weights(form: AttentionForm) -> str:
    found = "table[distance < p->last ? distance : p->last]"
    found = f"(mask[j] ? 0 : {found})" if form.masked else found
    each = ["    for (j = 0; j < p->keys; j++) {", "        int32_t distance = maximum - row[j];"]
    if not form.normalization:
        use = [f"        row[j] = ($W){found};", "        sum += row[j];", "    }", "    return sum;"]
        return "\n".join([*each, *use])
    first = [*each, f"        sum += {found};", "    }", f"    factor = {numerator(form.normalization)} / sum;"]
    probability = normalized(found, form.normalization, form.bits)
    return "\n".join([*first, *each, f"        row[j] = ($W){probability};", "    }"])
