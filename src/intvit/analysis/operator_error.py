"""How far each integer operator is from the float function that it stands for, on inputs of realistic spread.

`python -m intvit.analysis.operator_error` prints the Markdown tables of docs/operator-error.md. Inputs are drawn from a
fixed seed; the float function sees the same quantized inputs, so only the operator's own error is measured, which
includes the rounding of its output (`float` is that rounding alone).
"""

import torch
from torch import Tensor

from intvit.arithmetic import (
    GELU_FAMILIES,
    LAYERNORM_METHODS,
    SOFTMAX_FAMILIES,
    apply_gelu_table,
    derive_layernorm,
    derive_weights,
    exponent_table,
    exponential_from_table,
    gelu_table,
    layernorm_float64,
    probability_range,
    softmax_from_table,
    weight_table,
)

ROWS, TOKENS, HIDDEN, CHANNELS = 600, 197, 768, 384
SOFTMAX_VARIANTS = {
    "ivit": ("ivit", {}, "deferred"),
    "ivit, paper": ("ivit", {"paper": True}, "floor"),
    "ibert": ("ibert", {}, "deferred"),
    "ppoly": ("ppoly", {}, "deferred"),
    "lut": ("lut", {}, "deferred"),
    "lut, rounded": ("lut", {}, "rounded"),
    "float": ("float", {}, "deferred"),
}
GELU_VARIANTS = {"ivit": ("ivit", {}), "ivit, paper": ("ivit", {"paper": True})}
GELU_VARIANTS |= {family: (family, {}) for family in ("ibert", "ppoly", "lut", "float")}
LAYERNORM_VARIANTS = {method: (method, False) for method in LAYERNORM_METHODS} | {"ivit, paper": ("ivit", True)}


def normal(rows: int, columns: int, seed: int) -> Tensor:
    """Standard normal float64 [rows, columns] from a seed."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantize(x: Tensor, scale: float, bits: int) -> Tensor:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return torch.floor(x / scale + 0.5).clamp(low, high).to(torch.int8 if bits <= 8 else torch.int16)


def softmax_error(family: str, options: dict, normalization: str, bits: int, spread: float) -> tuple[float, float]:
    """(largest |p - real|, mean over rows of sum |p - real|) for 8-bit logits of a standard deviation.

    p is what the values are multiplied by: with deferred normalization weight / sum of weights. The logits' range is
    four standard deviations, so that their scale is 4 * spread / 127.
    """
    scale = 4 * spread / 127
    logits = quantize(normal(ROWS, TOKENS, 0) * spread, scale, 8)
    exponent = SOFTMAX_FAMILIES[family](scale, TOKENS, 8, **options)
    if normalization == "deferred":
        table = weight_table(exponent, 8, *derive_weights(exponent, 8, bits, TOKENS), bits)
        weights = exponential_from_table(logits, table).double()
        probabilities = weights / weights.sum(-1, keepdim=True)
    else:
        codes = softmax_from_table(logits, exponent_table(exponent, 8), bits, normalization)
        probabilities = codes * probability_range(bits, normalization)[2]
    error = (probabilities - torch.softmax(logits.double() * scale, -1)).abs()
    return float(error.max()), float(error.sum(-1).mean())


def gelu_error(family: str, options: dict, reach: float) -> tuple[float, float]:
    """(largest, mean) error in units of the int8 output, for int8 inputs whose range ends at `reach`.

    Rows are normal (-0.7, 1.2), as a network's, with one value of each row drawn up to the whole reach.
    """
    scale = reach / 127
    x = normal(ROWS, HIDDEN, 1) * 1.2 - 0.7
    x[:, 0] = torch.linspace(0, reach, ROWS)
    x = quantize(x, scale, 8)
    real = torch.nn.functional.gelu(x.double() * scale)
    scale_out = float(real.abs().max()) / 127
    gelu = GELU_FAMILIES[family](scale, scale_out, 8, 8, **options)
    error = (apply_gelu_table(x, gelu_table(gelu, 8)) - real / scale_out).abs()
    return float(error.max()), float(error.mean())


def layernorm_error(method: str, paper: bool, stream: str, spread: float) -> tuple[float, float]:
    """(largest, mean) error in units of the int8 output, for a stream whose rows use `spread` of its range.

    `8 bits + factors` is an 8-bit stream with power-of-two factors per channel (value = q * s * 2^-k, k = 0..3).
    """
    bits = 16 if stream == "16 bits" else 8
    generator = torch.Generator().manual_seed(2)
    finer = torch.randint(0, 4, (CHANNELS,), generator=generator) if "factors" in stream else None
    x = normal(ROWS, CHANNELS, 3) * spread
    # a channel of factor 2^-k has values that much smaller
    factor = torch.ones(CHANNELS, dtype=torch.float64) if finer is None else 2.0**-finer
    scale = 1 / (1 << (bits - 1))
    q = quantize(x, scale, bits)
    gamma, beta = 1 + 0.3 * normal(1, CHANNELS, 4)[0], 0.2 * normal(1, CHANNELS, 5)[0]
    real = torch.nn.functional.layer_norm(q.double() * factor, (CHANNELS,), gamma, beta, 0.0)
    scale_out = float(real.abs().max()) / 127
    shift = None if finer is None else 3 - finer
    parameters = derive_layernorm(method, gamma, beta, scale_out, bits, 8, channel_shift=shift, paper=paper)
    error = (layernorm_float64(q, parameters) - real / scale_out).abs()
    return float(error.max()), float(error.mean())


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table_of(variants: dict, columns: dict, measure, form: str) -> str:
    """One row a variant, one column a setting, each cell `largest / mean`."""
    rows = []
    for name, variant in variants.items():
        cells = ["{} / {}".format(*(format(v, form) for v in measure(variant, column))) for column in columns.values()]
        rows.append([name, *cells])
    return markdown(["family", *columns], rows)


def report() -> str:
    """The Markdown tables of all operators."""
    spreads = {f"std {s}": s for s in (0.5, 1.0, 2.0, 4.0)}
    parts = []
    for bits in (8, 16):
        parts.append(f"## Softmax, {bits}-bit weights or probabilities\n")
        parts.append(table_of(SOFTMAX_VARIANTS, spreads, lambda v, s, b=bits: softmax_error(*v, b, s), ".1e"))
    parts.append("## GELU, int8 to int8\n")
    reaches = {f"range {r}": r for r in (1.5, 3.0, 6.0, 10.0, 14.0)}
    parts.append(table_of(GELU_VARIANTS, reaches, lambda v, r: gelu_error(*v, r), ".2f"))
    parts.append("## LayerNorm to int8\n")
    streams = {
        f"{stream}, spread {spread}": (stream, spread)
        for stream in ("16 bits", "8 bits", "8 bits + factors")
        for spread in (0.25, 0.03)
    }
    parts.append(table_of(LAYERNORM_VARIANTS, streams, lambda v, s: layernorm_error(*v, *s), ".2f"))
    return "\n".join(f"{part}\n" if part.startswith("|") else part for part in parts)


if __name__ == "__main__":
    print(report())
