"""Softmax over rows of logit codes, and the mean of values that it weighs: what attention of every kind ends with.

With deferred normalization the softmax is split: `exponential` before the product with the values, the division by the
sum of the weights (`weighted_mean`) after it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import (
    SOFTMAX_FAMILIES,
    derive_mean,
    derive_weights,
    exponent_table,
    largest_weight,
    weight_table,
)
from intvit.arithmetic.families import Family
from intvit.arithmetic.hardware import power_of_two, shortened
from intvit.quant.config import HardwareConfig, SiteConfig, family_options
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_FUNCTION_SCALE, Quantizer
from intvit.quant.tensor import Derived, Integers, QTensor, Symbol, fields_for_emit


class SoftmaxMean(Layer):
    """The softmax of a site, its families and their integers; a layer says what the logits and the values are.

    context: the range of the mean. windows, excluded: see `AttentionCore`.
    """

    excluded: Tensor | None
    context: Quantizer

    def __init__(self, site: SiteConfig, *, windows: int = 1, excluded: Tensor | None = None) -> None:
        super().__init__()
        self.windows = windows
        self.register_buffer("excluded", None if excluded is None else excluded[:, None], persistent=False)
        self.softmax, self.bits = site.softmax, site.bits
        self.family, self.options = SOFTMAX_FAMILIES[self.softmax.family], family_options(self.softmax)
        self.exponentials: Derived  # Exponentials
        self.ending: Derived  # Requantization, or MeanRatio

    def probabilities(self, *inputs: Any) -> Tensor:
        """What the values are weighted with for an input of `forward`: real (B, .., M, N), for people."""
        raise NotImplementedError

    def logit_codes(self, *inputs: Any) -> QTensor:
        """What the softmax reads for an input of `forward`: codes (B, .., M, N)."""
        raise NotImplementedError

    @staticmethod
    def logit_quantizer(site: SiteConfig) -> Quantizer:
        """The quantizer of the logits of a site."""
        return Quantizer(
            site.bits.logits,
            site.observer.activation,
            site.observer,
            smallest_scale=SMALLEST_FUNCTION_SCALE,
            grid=SOFTMAX_FAMILIES[site.softmax.family].grid(family_options(site.softmax)),
        )

    @property
    def probability_scale(self) -> float:
        """Real value of one step of a probability."""
        return math.ldexp(1.0, (self.softmax.normalization == "floor") - self.bits.probabilities)

    def record_mean(self, logits: Symbol, v: Symbol) -> Symbol:
        """Emit the softmax of logits (.., M, N) and the mean of v (.., N, D): codes (.., M, D)."""
        assert logits.scale is not None
        self.exponentials = logits.builder.derive(
            exponentials,
            logits.scale,
            family=self.family,
            tokens=logits.shape[-1],
            logit_bits=logits.bits,
            bits=self.bits.probabilities,
            deferred=self.softmax.normalization == "deferred",
            site=self.name,
            **self.options,
        )
        end = self._record_deferred if self.softmax.normalization == "deferred" else self._record_normalized
        return end(logits, v)

    def record_product(
        self, part: str, a: Symbol, b: Symbol, transpose_b: bool, shape: tuple[int, ...], scale: Derived | None
    ) -> Symbol:
        """Emit `matmul`."""
        return a.builder.emit(
            "matmul",
            f"{self.name}.{part}",
            [a, b],
            shape=shape,
            bits=32,
            scale=scale,
            integers=lambda: Integers({"transpose_b": transpose_b}),
        )

    def _mask(self) -> dict[str, tuple[Tensor, int, bool]]:
        if self.excluded is None:
            return {}
        mask = self.excluded.to(torch.int64)  # (W, 1, N, N)
        return {"mask": (mask if self.windows > 1 else mask[0], 1, False)}

    def _record_normalized(self, logits: Symbol, v: Symbol) -> Symbol:
        form = {"bits": self.bits.probabilities, "normalization": self.softmax.normalization}
        shape = (*logits.shape[:-1], v.shape[-1])

        def integers() -> Integers:
            held = fields_for_emit(self.exponentials.value.exponent)
            return Integers({**held.attributes, **form}, {**held.constants, **self._mask()})

        step = v.builder.derive(torch.mul, v.scale, other=self.probability_scale, site=self.name)
        probabilities = logits.builder.emit(
            "softmax",
            f"{self.name}.softmax",
            [logits],
            shape=logits.shape,
            bits=self.bits.probabilities,
            signed=self.softmax.normalization == "floor",
            scale=torch.tensor(self.probability_scale, dtype=torch.float64),
            integers=integers,
        )
        context = self.context.record(self.record_product("weighted", probabilities, v, False, shape, step))
        self.ending = self.context.derived
        return context

    def _record_deferred(self, logits: Symbol, v: Symbol) -> Symbol:
        bits, emit = self.bits.probabilities, logits.builder.emit
        shape = (*logits.shape[:-1], v.shape[-1])
        scale = self.context.request_scale(logits.builder)
        self.ending = logits.builder.derive(
            mean_parameters,
            v.scale,
            scale,
            bits=self.context.bits,
            least_total=largest_weight(bits, logits.shape[-1]) // 2,
            site=self.context.name,
            rows=1,
        )

        def weights() -> Integers:
            p: Exponentials = self.exponentials.value
            held = fields_for_emit(p.exponent)
            assert p.multiplier is not None
            assert p.shift is not None
            form = {"bits": bits, "multiplier": p.multiplier, "shift": p.shift}
            return Integers({**held.attributes, **form}, {**held.constants, **self._mask()})

        def mean() -> Integers:
            p: MeanRatio = self.ending.value
            return Integers({"bits": self.context.bits, "multiplier": p.multiplier[0], "shift": p.shift[0]})

        exponential = emit(
            "exponential",
            f"{self.name}.exponential",
            [logits],
            shape=logits.shape,
            bits=bits,
            signed=False,
            integers=weights,
        )
        return emit(
            "weighted_mean",
            self.context.name,
            [self.record_product("weighted", exponential, v, False, shape, None), exponential],
            shape=shape,
            bits=self.context.bits,
            scale=scale,
            integers=mean,
        )


@dataclass(frozen=True)
class Exponentials:
    """The family's exponent, and the table that the kernels look up: weights where the division is deferred.

    bits: of the weights. multiplier, shift: of the weights, int64 (), where the division is deferred.
    """

    exponent: Any
    table: Tensor
    bits: int
    multiplier: Tensor | None = None
    shift: Tensor | None = None

    def fitted(self, hardware: HardwareConfig) -> Exponentials:
        """With weights of a shorter ratio, or of one that is a power of two. A family that is a table has none."""
        if self.multiplier is None or self.shift is None or self.exponent.kind == "table":
            return self
        if hardware.weight_ratio == "power_of_two":
            m, e = power_of_two(self.multiplier, self.shift)
        else:
            e, m = shortened(self.shift, self.multiplier, form=hardware)
        table = exponent_table(self.exponent, len(self.table).bit_length() - 1)
        return Exponentials(self.exponent, weight_table(table, m, e, self.bits), self.bits, m, e)


def exponentials(
    scale: Tensor, *, family: Family, tokens: int, logit_bits: int, bits: int, deferred: bool, **options: Any
) -> Exponentials:
    """For logits of a scale () in rows of `tokens`."""
    exponent = family(scale, tokens, logit_bits, **options)
    table = exponent_table(exponent, logit_bits)
    if not deferred:
        return Exponentials(exponent, table, bits)
    m, e = derive_weights(table, bits, tokens)
    return Exponentials(exponent, weight_table(table, m, e, bits), bits, m, e)


@dataclass(frozen=True)
class MeanRatio:
    """multiplier, shift: of `weighted_mean`, int64 (1,). least_total: about what a row's weights are at least."""

    multiplier: Tensor
    shift: Tensor
    least_total: int

    def fitted(self, hardware: HardwareConfig) -> MeanRatio:
        """With reciprocals of `operand_bits` bits."""
        bits = min(53, hardware.operand_bits + self.least_total.bit_length() - 1)
        form = dataclasses.replace(hardware, multiplier_bits=bits)
        shift, multiplier = shortened(self.shift, self.multiplier, form=form)
        return MeanRatio(multiplier, shift, self.least_total)


def mean_parameters(value_scale: Tensor, scale: Tensor, *, bits: int, least_total: int) -> MeanRatio:
    """Of `weighted_mean`, from the scales of the values and of the context: rows."""
    return MeanRatio(*derive_mean(value_scale / scale, bits), least_total)
