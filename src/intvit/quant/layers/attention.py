"""Attention core: query, key, value codes -> context codes, the two products and the softmax between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.arithmetic import (
    divide,
    exact_length,
    largest_weight,
)
from intvit.errors import IntVitError
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import AttentionOperands, Kernels, full_precision
from intvit.quant.kernels.eager import EAGER, merge_heads, split_heads
from intvit.quant.layers.softmax_mean import SoftmaxMean
from intvit.quant.quantizer import (
    SMALLEST_SCALE,
    Quantizer,
    Requantization,
    addition,
    requantization,
)
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle


class AttentionCore(SoftmaxMean):
    """softmax(Q K^T / sqrt(D) + bias) V for all heads; 1/sqrt(D) is part of the logits' multiplier.

    windows: the tokens are so many sequences of equal length, one after the other, each attending to itself.
    excluded: bool (windows, N, N) or None; True where a token must not attend to another.
    """

    def __init__(
        self, width: int, heads: int, site: SiteConfig, *, windows: int = 1, excluded: Tensor | None = None
    ) -> None:
        super().__init__(site, windows=windows, excluded=excluded)
        if width % heads or width // heads > exact_length(128, 128):
            raise IntVitError(
                f"{heads} heads of width {width}: the width must divide into heads of at most "
                f"{exact_length(128, 128)}, the longest product that is exact in float32"
            )
        self.heads = heads
        self.logits = SoftmaxMean.logit_quantizer(site)
        self.context = Quantizer.of_activation(site)
        self.scaling: Derived  # Requantization of the products, or, with a bias, Addition
        self.bias: Derived  # BiasCodes
        self.gradient_scales: Derived

    def forward(self, qkv: AnyTensor, bias: Tensor | None = None) -> AnyTensor:
        """(B, W * N, 3C), the last axis (3, heads, D) -> (B, W * N, C), for W windows; bias: real (heads, N, N)."""
        if isinstance(qkv, Symbol):
            return self.record(qkv, bias)
        if isinstance(qkv, QTensor):
            return self.integer(qkv, bias)
        q, k, v = split_heads(qkv, self.heads, self.windows)
        if not self.calibrating:
            return merge_heads(self._float(q, k, v, bias))
        logits = self._real_logits(q, k, bias)
        self.logits.collect(self._counted(logits))
        context = merge_heads(self._real_probabilities(logits) @ v)
        self.context.collect(context)
        return context

    @torch.no_grad()
    def probabilities(self, qkv: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
        """What the values are weighted with for an input of `forward`: real (B, W, heads, N, N), for people."""
        if isinstance(qkv, Tensor):
            q, k, _ = split_heads(qkv, self.heads, self.windows)
            return self._real_probabilities(self._real_logits(q, k, bias))
        _, operands = self._attend(qkv)
        sums = operands.sums
        return operands.weights * operands.step if sums is None else operands.weights / sums

    @torch.no_grad()
    def logit_codes(self, qkv: QTensor, bias: Tensor | None = None) -> QTensor:
        """What the softmax reads for an input of `forward`: codes (B, W, heads, N, N)."""
        codes = self._attend(qkv)[1].logits
        return QTensor(codes, handle(*codes.shape, device=codes.device), self.logits.step, self.logits.bits)

    @staticmethod
    def _real_logits(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return logits if bias is None else logits + bias

    def _real_probabilities(self, logits: Tensor) -> Tensor:
        return (logits if self.excluded is None else logits.masked_fill(self.excluded, -math.inf)).softmax(-1)

    def _counted(self, logits: Tensor) -> Tensor:
        """Logits whose range matters: excluded ones are zero."""
        return logits if self.excluded is None else logits.masked_fill(self.excluded, 0.0)

    def _float(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Context (B, W, heads, N, D); fused kernels take four axes."""
        shape = q.shape
        if self.excluded is None:
            q, k, v = (x.flatten(0, 1) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).view(shape)
        mask = ~self.excluded if bias is None else torch.where(self.excluded, -math.inf, bias)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    # ---------------------------------------------------------------- integer

    def integer(self, qkv: QTensor, bias: Tensor | None) -> QTensor:
        """Codes to codes."""
        context, operands = self._attend(qkv)
        gradient = AttentionGradient.apply(qkv.handle, bias, operands, self._kernels(qkv))
        return QTensor(context, gradient, self.context.step, self.context.bits)

    def _kernels(self, qkv: QTensor) -> Kernels:
        # all but plain torch take integers alone
        return EAGER if self.softmax.family == "float" else self.kernels(qkv.values)

    def _attend(self, qkv: QTensor) -> tuple[Tensor, AttentionOperands]:
        """Context codes (B, W * N, C), and what they were made of."""
        kernels, excluded = self._kernels(qkv), self.excluded
        scaling, ending, softmax = self.scaling.value, self.ending.value, self.exponentials.value
        bias = None if isinstance(scaling, Requantization) else self.bias.value.codes
        form = qkv.values, self.heads, self.windows
        with full_precision(qkv.values.device):
            logits, magnitudes = kernels.logits(*form, scaling, bias, self.logits.bits, excluded, self.logits.observing)
            self.logits.observe(magnitudes)
            attended = logits, softmax.table, excluded, qkv.values, ending.multiplier, ending.shift, self.context.bits
            width, observe, sums = self.bits.probabilities, self.context.observing, None
            if self.softmax.normalization == "deferred":
                largest = largest_weight(width, logits.shape[-1])
                weights, sums, context, magnitudes = kernels.deferred(*attended, largest, observe)
            else:
                normalization = self.softmax.normalization
                weights, context, magnitudes = kernels.normalized(*attended, width, normalization, observe)
            self.context.observe(magnitudes)
        scales = qkv.scale[2], self.gradient_scales.value, self.logits.step
        return context, AttentionOperands(
            qkv.values,
            logits,
            weights,
            sums,
            self.probability_scale,
            *scales,
            qkv.bits,
            self.logits.bits,
            excluded,
        )

    # ---------------------------------------------------------------- recording

    def record(self, qkv: Symbol, bias: Tensor | None) -> Symbol:
        """Emit the split of heads, both products with `requantize` (a bias: `add`) and softmax between, and the merge.

        With deferred normalization the softmax is `exponential`, and `weighted_mean` ends the second product; otherwise
        `requantize` does. An axis of windows leads everywhere if there are several.
        """
        tokens, width = qkv.shape[0] // self.windows, qkv.shape[1] // 3
        size = width // self.heads
        lead = (self.windows,) if self.windows > 1 else ()
        split = qkv.reshape(f"{self.name}.split", *lead, tokens, 3, self.heads, size)
        axes = [len(lead) + 1, *range(len(lead)), len(lead) + 2, len(lead), len(lead) + 3]
        heads = split.move("transpose", f"{self.name}.heads", (3, *lead, self.heads, tokens, size), axes=axes)
        q, k, v = (self._record_part(heads, i, part) for i, part in enumerate(("query", "key", "value")))
        derive, site, bits = qkv.builder.derive, self.logits.name, self.logits.bits
        step = derive(logit_step, q.scale, k.scale, size=size, site=site, rows=1)
        self.gradient_scales = derive(gradient_scales, qkv.scale, size=size, site=site)
        products = self.record_product("products", q, k, True, (*lead, self.heads, tokens, tokens), step.part(0))
        scale = self.logits.request_scale(qkv.builder)
        if bias is None:
            self.scaling = derive(requantization, step, scale, None, bits=bits, site=site, rows=1)
        else:
            self.bias = derive(bias_codes, bias.detach(), site=site)
            terms = step, self.bias.field("scale"), None, scale, None
            self.scaling = derive(addition, *terms, bits=bits, site=site, rows=1)
        logits = self._record_logits(products, scale, bias)
        return self._record_merge(self.record_mean(logits, v))

    def _record_part(self, heads: Symbol, index: int, part: str) -> Symbol:
        shape, name = heads.shape[1:], f"{self.name}.{part}"
        assert heads.scale is not None
        scale = heads.scale.part(index) if isinstance(heads.scale, Derived) else heads.scale[index]
        kept = heads.move("slice", f"{name}.slice", (1, *shape), axis=0, start=index, stop=index + 1)
        return replace(kept.reshape(name, *shape), scale=scale)

    def _record_logits(self, products: Symbol, scale: Derived, bias: Tensor | None) -> Symbol:
        bits, emit = self.logits.bits, products.builder.emit
        inputs = [products]
        if bias is not None:
            table = emit(
                "constant",
                f"{self.name}.bias",
                [],
                shape=tuple(bias.shape),
                bits=16,
                integers=lambda: Integers(constants={"value": (self.bias.value.codes, 16, True)}),
            )
            inputs.append(table)
        return emit(
            "requantize" if bias is None else "add",
            self.logits.name,
            inputs,
            shape=products.shape,
            bits=bits,
            scale=scale,
            integers=lambda: self.scaling.value.integers(bits),
        )

    def _record_merge(self, context: Symbol) -> Symbol:
        """(.., heads, N, D) -> (W * N, C)."""
        *lead, heads, tokens, size = context.shape
        first = len(lead)
        axes = [*range(first), first + 1, first, first + 2]
        turned = context.move("transpose", f"{self.name}.tokens", (*lead, tokens, heads, size), axes=axes)
        return turned.reshape(self.name, self.windows * tokens, heads * size)


def logit_step(query: Tensor, key: Tensor, *, size: int) -> Tensor:
    """Real value of one step of the products, from the scales of both operands; size: D."""
    return query * key * math.sqrt(1 / size)  # the power -0.5 would be libm's


def gradient_scales(scales: Tensor, *, size: int) -> Tensor:
    """See `AttentionOperands`, from the scales of query, key and value (3,); size: D."""
    query, key, value = scales.unbind()
    return torch.stack((key * value, query * value, torch.ones_like(value) * math.sqrt(size))) * math.sqrt(1 / size)


@dataclass(frozen=True)
class BiasCodes:
    """codes: int16 (H, N, N). scale: of its own, float64 ()."""

    codes: Tensor
    scale: Tensor


def bias_codes(bias: Tensor) -> BiasCodes:
    """Of a real bias (H, N, N)."""
    scale = divide(bias.abs().amax().double(), 2**15 - 1).clamp(min=SMALLEST_SCALE)
    return BiasCodes(torch.floor(bias.double() / scale + 0.5).to(torch.int16), scale)


class AttentionGradient(torch.autograd.Function):
    """Gradient of float attention at the quantized operands; the float softmax is recomputed from the logit codes."""

    @staticmethod
    def forward(
        ctx: Any, qkv_handle: Tensor, bias: Tensor | None, operands: AttentionOperands, kernels: Kernels
    ) -> Tensor:
        o = operands
        ctx.save_for_backward(o.qkv, o.logits, o.weights, o.sums)
        ctx.kernels = kernels
        ctx.form = o.step, o.scale, o.gradient_scales, o.logit_scale, o.bits, o.logit_bits, o.excluded
        batch, tokens, width = o.qkv.shape
        return handle(batch, tokens, width // 3, device=o.qkv.device, dtype=qkv_handle.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operands = AttentionOperands(*ctx.saved_tensors, *ctx.form)
        return *ctx.kernels.attention_gradient(gradient, operands, ctx.needs_input_grad[1]), None, None
