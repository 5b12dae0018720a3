"""Attention core: query, key, value codes -> context codes, the two products and the softmax between them.

With deferred normalization the softmax is split: `exponential` before the second product, the division by the sum of
the weights (`weighted_mean`) after it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.arithmetic import (
    SOFTMAX_FAMILIES,
    derive_mean,
    derive_weights,
    exact_length,
    exponent_table,
    exponential_from_table,
    float_matmul,
    largest_weight,
    weight_table,
)
from intvit.errors import IntVitError
from intvit.quant.config import SiteConfig, family_options
from intvit.quant.kernels import EAGER, Kernels, mask
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_FUNCTION_SCALE, Quantizer
from intvit.quant.tensor import QTensor, Symbol, Value, fields_for_emit, handle


class AttentionCore(Layer):
    """softmax(Q K^T / sqrt(D)) V for all heads; 1/sqrt(D) is part of the logits' multiplier."""

    def __init__(self, width: int, heads: int, site: SiteConfig) -> None:
        super().__init__()
        if width % heads or width // heads > exact_length(128, 128):
            raise IntVitError(
                f"{heads} heads of width {width}: the width must divide into heads of at most "
                f"{exact_length(128, 128)}, the longest product that is exact in float32"
            )
        self.heads = heads
        self.softmax, self.bits = site.softmax, site.bits
        paper = self.softmax.family == "ivit" and self.softmax.paper
        self.logits = Quantizer(
            site.bits.logits,
            site.observer.activation,
            site.observer,
            smallest_scale=SMALLEST_FUNCTION_SCALE,
            grid=1.0 if paper else None,
        )
        self.context = Quantizer(site.bits.activation, site.observer.activation, site.observer)

    def forward(self, qkv: Value) -> Value:
        """(B, N, 3C), the last axis (3, heads, D) -> (B, N, C)."""
        if isinstance(qkv, Symbol):
            return self.record(qkv)
        if isinstance(qkv, QTensor):
            return self.integer(qkv)
        q, k, v = self._split(qkv)
        if not self.calibrating:
            return self._merge(F.scaled_dot_product_attention(q, k, v))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        self.logits.collect(logits)
        context = self._merge(logits.softmax(-1) @ v)
        self.context.collect(context)
        return context

    def _split(self, qkv: Tensor) -> Tensor:
        """(B, N, 3C) -> (3, B, heads, N, D)."""
        batch, tokens, width = qkv.shape
        return qkv.view(batch, tokens, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)

    @staticmethod
    def _merge(context: Tensor) -> Tensor:
        """(B, heads, N, D) -> (B, N, C)."""
        return context.transpose(1, 2).flatten(2)

    # ---------------------------------------------------------------- integer

    @property
    def probability_scale(self) -> float:
        magnitude_bits = self.bits.probabilities - (self.softmax.normalization == "floor")
        return 2.0**-magnitude_bits

    def exponent(self, scale: float, tokens: int, bits: int) -> Any:
        """The family's integer exponential for logits of `scale` in rows of `tokens`."""
        options = family_options(self.softmax)
        return SOFTMAX_FAMILIES[self.softmax.family](scale, tokens, bits, site=self.name, **options)

    def integer(self, qkv: QTensor) -> QTensor:
        """Products in float32 are exact: |q.k| <= D * 2^14 <= 2^24 for D <= 1024, and see `float_matmul`."""
        with torch.autocast(qkv.values.device.type, enabled=False):  # half precision would round them
            return self._integer(qkv)

    def _integer(self, qkv: QTensor) -> QTensor:
        q, k, v = self._split(qkv.values).float().flatten(1, 2)
        tokens = qkv.values.shape[1]
        scale_q, scale_k, scale_v = qkv.scale
        logit_scale = scale_q * scale_k * q.shape[-1] ** -0.5
        products = torch.bmm(q, k.transpose(1, 2)).view(-1, self.heads, tokens, tokens)
        logits = self.logits(QTensor(products, qkv.handle.detach(), logit_scale, 32))
        attend = self._deferred if self.softmax.normalization == "deferred" else self._normalized
        context, weights, step = attend(logits, v, scale_v)
        gradient = AttentionGradient.apply(qkv.handle, qkv, logits, weights, self.heads, step, self.kernels)
        return QTensor(context, gradient, self.context.scale(), self.context.bits)

    def _normalized(self, logits: QTensor, v: Tensor, scale_v: float) -> tuple[Tensor, Tensor, Tensor | float]:
        """Context codes (B, N, C), probabilities (B * heads, N, N), and the real value of one probability step."""
        tokens, bits = v.shape[1], self.bits.probabilities
        table = exponent_table(self.exponent(logits.scale, tokens, logits.bits), logits.bits).to(v.device)
        kernels = EAGER if self.softmax.family == "float" else self.kernels  # compiled ones take integers alone
        probabilities = kernels.softmax(logits.values.view(-1, tokens), table, bits, self.softmax.normalization)
        probabilities = probabilities.view(-1, tokens, tokens)
        context = float_matmul(probabilities, v, (1 << bits) - 1).view(-1, self.heads, tokens, v.shape[-1])
        step = self.probability_scale
        context = self.context(QTensor(self._merge(context), logits.handle, step * scale_v, 32))
        return context.values, probabilities, step

    def _deferred(self, logits: QTensor, v: Tensor, scale_v: float) -> tuple[Tensor, Tensor, Tensor | float]:
        """Context codes (B, N, C), weights (B * heads, N, N), and 1 / sum of weights, float32 (B * heads, N, 1)."""
        tokens, bits = v.shape[1], self.bits.probabilities
        exponent = self.exponent(logits.scale, tokens, logits.bits)
        table = weight_table(exponent, logits.bits, *derive_weights(exponent, logits.bits, bits, tokens), bits).to(
            v.device
        )
        weights = exponential_from_table(logits.values.view(-1, tokens), table).view(-1, tokens, tokens)
        real = weights.float()
        total = real.sum(-1, keepdim=True)  # below 2^31 / 128, exact
        sums = float_matmul(real, v, largest_weight(bits, tokens))
        if self.context.observing:
            self.context.observe(self._heads_to_tokens(sums / total), scale_v)
        m, e = derive_mean(scale_v / self.context.scale(), self.context.bits)
        m, e = torch.tensor(m, device=v.device), torch.tensor(e, device=v.device)
        context = self.kernels.weighted_mean(sums, total, m, e, self.context.bits)
        return self._heads_to_tokens(context), weights, total.float().reciprocal()

    def _heads_to_tokens(self, context: Tensor) -> Tensor:
        """(B * heads, N, D) -> (B, N, C)."""
        return self._merge(context.view(-1, self.heads, *context.shape[1:]))

    # ---------------------------------------------------------------- recording

    def record(self, qkv: Symbol) -> Symbol:
        """Emit the split of heads, `matmul`, `requantize`, the softmax, `matmul`, the merge and `requantize`.

        With deferred normalization the softmax is `exponential`, and `weighted_mean` replaces the last `requantize`.
        """
        tokens, width = qkv.shape[0], qkv.shape[1] // 3
        size = width // self.heads
        split = qkv.reshape(f"{self.name}.split", tokens, 3, self.heads, size)
        heads = split.move("transpose", f"{self.name}.heads", (3, self.heads, tokens, size), axes=[1, 2, 0, 3])
        q, k, v = (self._record_part(heads, i, part, qkv.scale[i]) for i, part in enumerate(("query", "key", "value")))
        logit_scale = q.scale * k.scale * size**-0.5
        products = self._record_product("products", q, k, True, (self.heads, tokens, tokens), logit_scale)
        logits = self.logits(products)
        if self.softmax.normalization == "deferred":
            return self._record_deferred(logits, v, (tokens, width))
        probabilities = self._record_softmax(logits, tokens)
        scale = self.probability_scale * v.scale
        context = self._record_product("weighted", probabilities, v, False, v.shape, scale)
        context = context.move("transpose", f"{self.name}.tokens", (tokens, self.heads, size), axes=[1, 0, 2])
        return self.context(context.reshape(f"{self.name}.merge", tokens, width))

    def _record_deferred(self, logits: Symbol, v: Symbol, shape: tuple[int, int]) -> Symbol:
        heads, tokens, size = v.shape
        exponent, bits = self.exponent(logits.scale, tokens, logits.bits), self.bits.probabilities
        attributes, constants = fields_for_emit(exponent)
        m, e = derive_weights(exponent, logits.bits, bits, tokens)
        weights = logits.builder.emit(
            "exponential",
            f"{self.name}.exponential",
            [logits],
            shape=logits.shape,
            bits=bits,
            signed=False,
            attributes={**attributes, "bits": bits, "multiplier": m, "shift": e},
            constants=constants,
        )
        sums = self._record_product("weighted", weights, v, False, v.shape, None)
        m, e = derive_mean(v.scale / self.context.scale(), self.context.bits)
        context = logits.builder.emit(
            "weighted_mean",
            self.context.name,
            [sums, weights],
            shape=v.shape,
            bits=self.context.bits,
            scale=self.context.scale(),
            attributes={"bits": self.context.bits, "multiplier": m, "shift": e},
        )
        context = context.move("transpose", f"{self.name}.tokens", (tokens, heads, size), axes=[1, 0, 2])
        return context.reshape(self.name, *shape)

    def _record_part(self, heads: Symbol, index: int, part: str, scale: float) -> Symbol:
        _, count, tokens, size = heads.shape
        name = f"{self.name}.{part}"
        kept = heads.move("slice", f"{name}.slice", (1, count, tokens, size), axis=0, start=index, stop=index + 1)
        return replace(kept.reshape(name, count, tokens, size), scale=scale)

    def _record_product(
        self, part: str, a: Symbol, b: Symbol, transpose_b: bool, shape: tuple[int, ...], scale: float | None
    ) -> Symbol:
        return a.builder.emit(
            "matmul",
            f"{self.name}.{part}",
            [a, b],
            shape=shape,
            bits=32,
            scale=scale,
            attributes={"transpose_b": transpose_b},
        )

    def _record_softmax(self, logits: Symbol, tokens: int) -> Symbol:
        name = f"{self.name}.softmax"
        attributes, constants = fields_for_emit(self.exponent(logits.scale, tokens, logits.bits))
        return logits.builder.emit(
            "softmax",
            name,
            [logits],
            shape=logits.shape,
            bits=self.bits.probabilities,
            signed=self.softmax.normalization == "floor",
            scale=self.probability_scale,
            attributes={
                **attributes,
                "bits": self.bits.probabilities,
                "normalization": self.softmax.normalization,
            },
            constants=constants,
        )


class AttentionGradient(torch.autograd.Function):
    """Gradient of float attention at the quantized operands; the float softmax is recomputed from the logit codes."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_handle: Tensor,
        qkv: QTensor,
        logits: QTensor,
        probabilities: Tensor,
        heads: int,
        step: Tensor | float,
        kernels: Kernels,
    ) -> Tensor:
        steps = step if isinstance(step, Tensor) else torch.full((1, 1, 1), step, device=qkv.values.device)
        ctx.save_for_backward(qkv.values, logits.values, probabilities, steps)
        ctx.scales, ctx.bits, ctx.heads = qkv.scale, qkv.bits, heads
        ctx.logit_scale, ctx.logit_bits, ctx.kernels = logits.scale, logits.bits, kernels
        batch, tokens, width = qkv.values.shape
        return handle(batch, tokens, width // 3, device=qkv.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, logit_codes, probabilities, step = ctx.saved_tensors
        batch, tokens, width = codes.shape
        size = width // 3 // ctx.heads
        scale_q, scale_k, scale_v = ctx.scales
        shape = (batch, tokens, 3, ctx.heads, size)
        # (3, B * heads, N, D)
        operands = codes.view(shape).permute(2, 0, 3, 1, 4).float().reshape(3, -1, tokens, size)
        q, k, v = operands
        g = gradient.reshape(batch, tokens, ctx.heads, size).transpose(1, 2).reshape(-1, tokens, size)
        result = torch.empty_like(operands)
        d_probabilities = torch.bmm(g, v.transpose(1, 2)).mul_(scale_v)
        torch.bmm(probabilities.float().transpose(1, 2), g * step, out=result[2])
        logit_codes = logit_codes.view(-1, tokens, tokens)
        d_logits = ctx.kernels.softmax_gradient(d_probabilities, logit_codes, ctx.logit_scale, ctx.logit_bits)
        root = math.sqrt(size)
        torch.bmm(d_logits, k, out=result[0]).mul_(scale_k / root)
        torch.bmm(d_logits.transpose(1, 2), q, out=result[1]).mul_(scale_q / root)
        result = (
            mask(result, operands, ctx.bits)
            .view(3, batch, ctx.heads, tokens, size)
            .permute(1, 3, 0, 2, 4)
            .reshape(batch, tokens, width)
        )
        return result, None, None, None, None, None, None
