"""Attention core: query, key, value codes -> context codes, the two products and the softmax between them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.arithmetic import SOFTMAX_FAMILIES, exact_length, exponent_table
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
        self.logits = Quantizer(
            site.bits.logits, site.observer.activation, site.observer, smallest_scale=SMALLEST_FUNCTION_SCALE
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
        """Products in float32 are exact: |q.k| <= D * 2^14 <= 2^24 for D <= 1024, sum(p) * 2^7 < 2^24."""
        with torch.autocast(qkv.values.device.type, enabled=False):  # half precision would round them
            return self._integer(qkv)

    def _integer(self, qkv: QTensor) -> QTensor:
        q, k, v = self._split(qkv.values).float().flatten(1, 2)
        batch, tokens = qkv.values.shape[:2]
        scale_q, scale_k, scale_v = qkv.scale
        detached = qkv.handle.detach()
        logit_scale = scale_q * scale_k * q.shape[-1] ** -0.5
        products = torch.bmm(q, k.transpose(1, 2)).view(batch, self.heads, tokens, tokens)
        logits = self.logits(QTensor(products, detached, logit_scale, 32))
        table = exponent_table(self.exponent(logits.scale, tokens, logits.bits), logits.bits)
        kernels = EAGER if self.softmax.family == "float" else self.kernels  # compiled ones take integers alone
        probabilities = kernels.softmax(
            logits.values.view(-1, tokens), table.to(q.device), self.bits.probabilities, self.softmax.normalization
        ).view(-1, tokens, tokens)
        context = torch.bmm(probabilities.float(), v).view(batch, self.heads, tokens, -1)
        context = self.context(QTensor(self._merge(context), detached, self.probability_scale * scale_v, 32))
        saved = (qkv, logits, probabilities, self.heads, self.probability_scale, self.kernels)
        return QTensor(context.values, AttentionGradient.apply(qkv.handle, *saved), context.scale, context.bits)

    # ---------------------------------------------------------------- recording

    def record(self, qkv: Symbol) -> Symbol:
        """Emit the split of heads, `matmul`, `requantize`, `softmax`, `matmul`, the merge and `requantize`."""
        tokens, width = qkv.shape[0], qkv.shape[1] // 3
        size = width // self.heads
        split = qkv.reshape(f"{self.name}.split", tokens, 3, self.heads, size)
        heads = split.move("transpose", f"{self.name}.heads", (3, self.heads, tokens, size), axes=[1, 2, 0, 3])
        q, k, v = (self._record_part(heads, i, part, qkv.scale[i]) for i, part in enumerate(("query", "key", "value")))
        logit_scale = q.scale * k.scale * size**-0.5
        products = self._record_product("products", q, k, True, (self.heads, tokens, tokens), logit_scale)
        logits = self.logits(products)
        probabilities = self._record_softmax(logits, tokens)
        scale = self.probability_scale * v.scale
        context = self._record_product("weighted", probabilities, v, False, (self.heads, tokens, size), scale)
        context = context.move("transpose", f"{self.name}.tokens", (tokens, self.heads, size), axes=[1, 0, 2])
        return self.context(context.reshape(f"{self.name}.merge", tokens, width))

    def _record_part(self, heads: Symbol, index: int, part: str, scale: float) -> Symbol:
        _, count, tokens, size = heads.shape
        name = f"{self.name}.{part}"
        kept = heads.move("slice", f"{name}.slice", (1, count, tokens, size), axis=0, start=index, stop=index + 1)
        return replace(kept.reshape(name, count, tokens, size), scale=scale)

    def _record_product(
        self, part: str, a: Symbol, b: Symbol, transpose_b: bool, shape: tuple[int, ...], scale: float
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
        step: float,
        kernels: Kernels,
    ) -> Tensor:
        ctx.save_for_backward(qkv.values, logits.values, probabilities)
        ctx.scales, ctx.bits, ctx.heads, ctx.step = qkv.scale, qkv.bits, heads, step
        ctx.logit_scale, ctx.logit_bits, ctx.kernels = logits.scale, logits.bits, kernels
        batch, tokens, width = qkv.values.shape
        return handle(batch, tokens, width // 3, device=qkv.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, logit_codes, probabilities = ctx.saved_tensors
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
        torch.bmm(probabilities.float().transpose(1, 2), g, out=result[2]).mul_(ctx.step)
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
