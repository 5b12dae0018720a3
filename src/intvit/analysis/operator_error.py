"""How far each integer operator is from the float function that it stands for, on inputs of realistic spread.

`python -m intvit.analysis.operator_error` prints the Markdown tables of docs/operator-error.md; `intvit analyze
operators` makes a page of plots from the same measurements, also on the inputs of a real model. Inputs here are drawn
from a fixed seed; the float function sees the same quantized inputs, so only the operator's own error is measured,
which includes the rounding of its output (`float` is that rounding alone).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from intvit.analysis.distances import divergence
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
from intvit.quant.config import preset_options

ROWS, TOKENS, HIDDEN, CHANNELS = 600, 197, 768, 384
SPREADS = (0.5, 1.0, 2.0, 4.0)  # standard deviation of logits
REACHES = (1.5, 3.0, 6.0, 10.0, 14.0)  # real input of a GELU at its largest code
STREAMS = ("16 bits", "8 bits", "8 bits + factors")
SoftmaxVariant = tuple[str, dict[str, Any], str]  # family, its options, normalization
GeluVariant = tuple[str, dict[str, Any]]
LAYERNORM_VARIANTS = {method: (method, False) for method in LAYERNORM_METHODS} | {"ivit, paper": ("ivit", True)}


def softmax_variants() -> dict[str, SoftmaxVariant]:
    """Every family of softmax, those of a user included, and the published forms beside them."""
    variants: dict[str, SoftmaxVariant] = {}
    for family in SOFTMAX_FAMILIES:
        variants[family] = (family, preset_options("softmax", family), "deferred")
        if family == "ivit":
            variants["ivit, paper"] = (family, {"paper": True}, "floor")
        if family == "lut":
            variants["lut, rounded"] = (family, {}, "rounded")
    return variants


def gelu_variants() -> dict[str, GeluVariant]:
    """Every family that stands for GELU, those of a user included."""
    variants: dict[str, GeluVariant] = {}
    for family in GELU_FAMILIES.standing_for(torch.nn.functional.gelu):
        variants[family] = (family, preset_options("gelu", family))
        if family == "ivit":
            variants["ivit, paper"] = (family, {"paper": True})
    return variants


def normal(rows: int, columns: int, seed: int) -> Tensor:
    """Standard normal float64 [rows, columns] from a seed."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantize(x: Tensor, scale: float, bits: int) -> Tensor:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return torch.floor(x / scale + 0.5).clamp(low, high).to(torch.int8 if bits <= 8 else torch.int16)


@dataclass(frozen=True)
class OperatorError:
    """largest and mean error of an operator on given inputs; divergence: of softmax rows, mean KL in bits."""

    largest: float
    mean: float
    divergence: float | None = None


@dataclass(frozen=True)
class Logits:
    """Inputs of a softmax: codes (..., N) of `bits` bits, real value code * scale."""

    codes: Tensor
    scale: float
    bits: int = 8


@dataclass(frozen=True)
class Activations:
    """Inputs of a GELU: codes (..., C) with their scale, and the scale of its output of as many bits."""

    codes: Tensor
    scale: float
    scale_out: float
    bits: int = 8


@dataclass(frozen=True)
class Stream:
    """Inputs of a LayerNorm: codes (..., C) of a stream, gamma and beta float64 (C,), the scale of its int8 output.

    shift: int64 (C,), 3 - k where a channel's value is code * scale * 2^-k, or None.
    """

    codes: Tensor
    bits: int
    gamma: Tensor
    beta: Tensor
    scale_out: float
    shift: Tensor | None = None
    bits_out: int = 8


def normal_logits(spread: float) -> Logits:
    """Rows of 197 normal logits of a standard deviation, whose range is four of them."""
    scale = 4 * spread / 127
    return Logits(quantize(normal(ROWS, TOKENS, 0) * spread, scale, 8), scale)


def softmax_error(variant: SoftmaxVariant, logits: Logits, bits: int) -> OperatorError:
    """In probability; the mean is over rows of sum |p - real|.

    bits: of the weights, or of the probabilities. p is what the values are multiplied by: with deferred normalization
    weight / sum of weights.
    """
    family, options, normalization = variant
    tokens = logits.codes.shape[-1]
    exponent = SOFTMAX_FAMILIES[family](logits.scale, tokens, logits.bits, **options)
    exponentials = exponent_table(exponent, logits.bits)
    if normalization == "deferred":
        table = weight_table(exponentials, *derive_weights(exponentials, bits, tokens), bits)
        weights = exponential_from_table(logits.codes, table).double()
        probabilities = weights / weights.sum(-1, keepdim=True)
    else:
        codes = softmax_from_table(logits.codes, exponentials, bits, normalization)
        probabilities = codes * probability_range(bits, normalization)[2]
    real = torch.softmax(logits.codes.double() * logits.scale, -1)
    error = (probabilities - real).abs()
    return OperatorError(float(error.max()), float(error.sum(-1).mean()), float(divergence(probabilities, real).mean()))


def normal_activations(reach: float) -> Activations:
    """Rows that are normal (-0.7, 1.2), as a network's, with one value of each drawn up to the whole range."""
    scale = reach / 127
    x = normal(ROWS, HIDDEN, 1) * 1.2 - 0.7
    x[:, 0] = torch.linspace(0, reach, ROWS)
    codes = quantize(x, scale, 8)
    return Activations(codes, scale, float(torch.nn.functional.gelu(codes.double() * scale).abs().max()) / 127)


def gelu_error(variant: GeluVariant, x: Activations) -> OperatorError:
    """In units of the integer output."""
    family, options = variant
    gelu = GELU_FAMILIES[family](x.scale, x.scale_out, x.bits, x.bits, **options)
    real = torch.nn.functional.gelu(x.codes.double() * x.scale) / x.scale_out
    # Saturation is the output range's doing, not the function's.
    real = real.clamp(-(1 << (x.bits - 1)), (1 << (x.bits - 1)) - 1)
    error = (apply_gelu_table(x.codes, gelu_table(gelu, x.bits)) - real).abs()
    return OperatorError(float(error.max()), float(error.mean()))


def normal_stream(stream: str, spread: float) -> Stream:
    """Rows of 384 channels that use `spread` of their range.

    `8 bits + factors` is an 8-bit stream with power-of-two factors per channel (value = q * s * 2^-k, k = 0..3).
    """
    bits = 16 if stream == "16 bits" else 8
    generator = torch.Generator().manual_seed(2)
    finer = torch.randint(0, 4, (CHANNELS,), generator=generator) if "factors" in stream else None
    codes = quantize(normal(ROWS, CHANNELS, 3) * spread, 1 / (1 << (bits - 1)), bits)
    gamma, beta = 1 + 0.3 * normal(1, CHANNELS, 4)[0], 0.2 * normal(1, CHANNELS, 5)[0]
    shift = None if finer is None else 3 - finer
    inputs = Stream(codes, bits, gamma, beta, 1.0, shift)
    return replace(inputs, scale_out=float(_real_layernorm(inputs).abs().max()) / 127)


def _real_layernorm(x: Stream) -> Tensor:
    # a common power of two cancels
    values = x.codes.double() if x.shift is None else x.codes.double() * 2.0**x.shift
    return torch.nn.functional.layer_norm(values, (values.shape[-1],), x.gamma, x.beta, 0.0)


def layernorm_error(variant: tuple[str, bool], x: Stream) -> OperatorError:
    """In units of the integer output. variant: method, and whether as published."""
    method, paper = variant
    parameters = derive_layernorm(
        method, x.gamma, x.beta, x.scale_out, x.bits, x.bits_out, channel_shift=x.shift, paper=paper
    )
    real = _real_layernorm(x) / x.scale_out
    real = real.clamp(-(1 << (x.bits_out - 1)), (1 << (x.bits_out - 1)) - 1)
    error = (layernorm_float64(x.codes, parameters) - real).abs()
    return OperatorError(float(error.max()), float(error.mean()))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def table_of(
    variants: Mapping[str, Any], columns: Mapping[str, Any], measure: Callable[[Any, Any], OperatorError], form: str
) -> str:
    """One row a variant, one column a setting, each cell `largest / mean`."""
    rows = []
    for name, variant in variants.items():
        errors = [measure(variant, column) for column in columns.values()]
        cells = [f"{error.largest:{form}} / {error.mean:{form}}" for error in errors]
        rows.append([name, *cells])
    return markdown(["family", *columns], rows)


def report() -> str:
    """The Markdown tables of all operators."""
    spreads = {f"std {s}": normal_logits(s) for s in SPREADS}
    parts = []
    for bits in (8, 16):
        parts.append(f"## Softmax, {bits}-bit weights or probabilities\n")
        parts.append(table_of(softmax_variants(), spreads, partial(softmax_error, bits=bits), ".1e"))
    parts.append("## GELU, int8 to int8\n")
    reaches = {f"range {r}": normal_activations(r) for r in REACHES}
    parts.append(table_of(gelu_variants(), reaches, gelu_error, ".2f"))
    parts.append("## LayerNorm to int8\n")
    streams = {
        f"{stream}, spread {spread}": normal_stream(stream, spread) for stream in STREAMS for spread in (0.25, 0.03)
    }
    parts.append(table_of(LAYERNORM_VARIANTS, streams, layernorm_error, ".2f"))
    return "\n".join(f"{part}\n" if part.startswith("|") else part for part in parts)


if __name__ == "__main__":
    print(report())
