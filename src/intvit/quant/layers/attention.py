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
    divide,
    encode_pair,
    exact_length,
    exponent_table,
    exponential_from_table,
    float_matmul,
    largest_weight,
    weight_table,
)
from intvit.errors import IntVitError
from intvit.quant.config import SiteConfig, family_options
from intvit.quant.kernels import EAGER, mask
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_FUNCTION_SCALE, SMALLEST_SCALE, Quantizer
from intvit.quant.tensor import AnyTensor, QTensor, Symbol, fields_for_emit, handle


class AttentionCore(Layer):
    """softmax(Q K^T / sqrt(D) + bias) V for all heads; 1/sqrt(D) is part of the logits' multiplier.

    windows: the tokens are so many sequences of equal length, one after the other, each attending to itself.
    excluded: bool (windows, N, N) or None; True where a token must not attend to another.
    """

    excluded: Tensor | None

    def __init__(
        self, width: int, heads: int, site: SiteConfig, *, windows: int = 1, excluded: Tensor | None = None
    ) -> None:
        super().__init__()
        if width % heads or width // heads > exact_length(128, 128):
            raise IntVitError(
                f"{heads} heads of width {width}: the width must divide into heads of at most "
                f"{exact_length(128, 128)}, the longest product that is exact in float32"
            )
        self.heads, self.windows = heads, windows
        self.register_buffer("excluded", None if excluded is None else excluded[:, None], persistent=False)
        self.softmax, self.bits = site.softmax, site.bits
        self.family, self.options = SOFTMAX_FAMILIES[self.softmax.family], family_options(self.softmax)
        self.logits = Quantizer(
            site.bits.logits,
            site.observer.activation,
            site.observer,
            smallest_scale=SMALLEST_FUNCTION_SCALE,
            grid=self.family.grid(self.options),
        )
        self.context = Quantizer(site.bits.activation, site.observer.activation, site.observer)

    def forward(self, qkv: AnyTensor, bias: Tensor | None = None) -> AnyTensor:
        """(B, W * N, 3C), the last axis (3, heads, D) -> (B, W * N, C), for W windows; bias: real (heads, N, N)."""
        if isinstance(qkv, Symbol):
            return self.record(qkv, bias)
        if isinstance(qkv, QTensor):
            return self.integer(qkv, bias)
        q, k, v = self._split(qkv)
        if not self.calibrating:
            return self._merge(self._float(q, k, v, bias))
        logits = self._real_logits(q, k, bias)
        self.logits.collect(self._counted(logits))
        context = self._merge(self._real_probabilities(logits) @ v)
        self.context.collect(context)
        return context

    @torch.no_grad()
    def probabilities(self, qkv: Tensor | QTensor, bias: Tensor | None = None) -> Tensor:
        """What the values are weighted with for an input of `forward`: real (B, W, heads, N, N), for people."""
        if isinstance(qkv, Tensor):
            q, k, _ = self._split(qkv)
            return self._real_probabilities(self._real_logits(q, k, bias))
        _, logits, weights, step = self._attend(qkv, bias)
        return (weights * step).view(logits.values.shape)

    @torch.no_grad()
    def logit_codes(self, qkv: QTensor, bias: Tensor | None = None) -> QTensor:
        """What the softmax reads for an input of `forward`: codes (B, W, heads, N, N)."""
        return self._attend(qkv, bias)[1]

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

    def _split(self, qkv: Tensor) -> Tensor:
        """(B, W * N, 3C) -> (3, B, W, heads, N, D)."""
        batch, tokens, width = qkv.shape
        shape = (batch, self.windows, tokens // self.windows, 3, self.heads, width // (3 * self.heads))
        return qkv.view(shape).permute(3, 0, 1, 4, 2, 5)

    @staticmethod
    def _merge(context: Tensor) -> Tensor:
        """(B, W, heads, N, D) -> (B, W * N, C)."""
        return context.transpose(2, 3).flatten(3).flatten(1, 2)

    # ---------------------------------------------------------------- integer

    @property
    def probability_scale(self) -> float:
        return math.ldexp(1.0, (self.softmax.normalization == "floor") - self.bits.probabilities)

    def exponent(self, scale: float, tokens: int, bits: int) -> Any:
        """The family's integer exponential for logits of `scale` in rows of `tokens`."""
        return self.family(scale, tokens, bits, site=self.name, **self.options)

    def integer(self, qkv: QTensor, bias: Tensor | None) -> QTensor:
        """Products in float32 are exact: |q.k| <= D * 2^14 <= 2^24 for D <= 1024, and see `float_matmul`."""
        with torch.autocast(qkv.values.device.type, enabled=False):  # half precision would round them
            return self._integer(qkv, bias)

    def _integer(self, qkv: QTensor, bias: Tensor | None) -> QTensor:
        context, logits, weights, step = self._attend(qkv, bias)
        gradient = AttentionGradient.apply(qkv.handle, bias, qkv, logits, weights, step, self)
        return QTensor(context, gradient, self.context.scale(), self.context.bits)

    def _attend(self, qkv: QTensor, bias: Tensor | None) -> tuple[Tensor, QTensor, Tensor, Tensor | float]:
        """Context codes (B, W * N, C), logit codes (B, W, heads, N, N), weights (B * W * heads, N, N), their step."""
        q, k, v = self._split(qkv.values).float().flatten(1, 3)
        tokens = q.shape[1]
        scale_q, scale_k, scale_v = qkv.group_steps
        logit_scale = scale_q * scale_k * math.sqrt(1 / q.shape[-1])  # the power would be libm's
        products = torch.bmm(q, k.transpose(1, 2)).view(-1, self.windows, self.heads, tokens, tokens)
        logits = self._logits(QTensor(products, qkv.handle.detach(), logit_scale, 32), bias)
        attend = self._deferred if self.softmax.normalization == "deferred" else self._normalized
        context, weights, step = attend(logits, v, scale_v)
        return context, logits, weights, step

    def _logits(self, products: QTensor, bias: Tensor | None) -> QTensor:
        """Codes (B, W, heads, N, N); the bias joins before the one rounding."""
        if bias is None:
            return self.logits(products)
        if self.logits.observing:
            self.logits.observe(self._counted(products.values * products.step + bias.detach()).flatten(1, 3), 1.0)
        codes, *multipliers = self._bias_parameters(bias, products.step)
        values = self.kernels.add(products.values, codes, *multipliers, self.logits.bits)
        return QTensor(values, products.handle, self.logits.scale(), self.logits.bits)

    @torch.no_grad()
    def _bias_parameters(self, bias: Tensor, logit_scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bias codes int16 (heads, N, N) of their own scale, and the multipliers of `add`, int64 (1,)."""
        scale = max(float(bias.abs().max()) / (2**15 - 1), SMALLEST_SCALE)
        codes = torch.floor(divide(bias.double(), scale) + 0.5).to(torch.int16)
        ratios = torch.tensor([[logit_scale], [scale]], dtype=torch.float64, device=bias.device)
        ratio_a, ratio_b = divide(ratios, self.logits.single_scale())
        return codes, *encode_pair(ratio_a, ratio_b, self.logits.bits)

    def _normalized(self, logits: QTensor, v: Tensor, scale_v: float) -> tuple[Tensor, Tensor, Tensor | float]:
        """Context codes (B, W * N, C), probabilities (B * W * heads, N, N), and the real value of one step."""
        tokens, bits = v.shape[1], self.bits.probabilities
        table = exponent_table(self.exponent(logits.step, tokens, logits.bits), logits.bits).to(v.device)
        kernels = EAGER if self.softmax.family == "float" else self.kernels  # compiled ones take integers alone
        probabilities = kernels.softmax(logits.values, table, bits, self.softmax.normalization, self.excluded)
        probabilities = probabilities.view(-1, tokens, tokens)
        sums = float_matmul(probabilities, v, (1 << bits) - 1)
        step = self.probability_scale
        context = self.context(QTensor(sums, logits.handle, step * scale_v, 32))
        return self._heads_to_tokens(context.values), probabilities, step

    def _deferred(self, logits: QTensor, v: Tensor, scale_v: float) -> tuple[Tensor, Tensor, Tensor | float]:
        """Context codes (B, W * N, C), weights (B * W * heads, N, N), and 1 / sum of weights, float32 (.., N, 1)."""
        tokens, bits = v.shape[1], self.bits.probabilities
        exponent = self.exponent(logits.step, tokens, logits.bits)
        m, e = derive_weights(exponent, logits.bits, bits, tokens)
        table = weight_table(exponent, logits.bits, m, e, bits).to(v.device)
        weights = exponential_from_table(logits.values, table, self.excluded).view(-1, tokens, tokens)
        real = weights.float()
        total = real.sum(-1, keepdim=True)  # below 2^31 / 128, exact
        sums = float_matmul(real, v, largest_weight(bits, tokens))
        if self.context.observing:
            self.context.observe(self._heads_to_tokens(sums / total), scale_v)
        mean = derive_mean(scale_v / self.context.single_scale(), self.context.bits)
        multiplier, shift = (value.to(v.device) for value in mean)
        context = self.kernels.weighted_mean(sums, total, multiplier, shift, self.context.bits)
        return self._heads_to_tokens(context), weights, total.float().reciprocal()

    def _heads_to_tokens(self, context: Tensor) -> Tensor:
        """(B * W * heads, N, D) -> (B, W * N, C)."""
        return self._merge(context.view(-1, self.windows, self.heads, *context.shape[1:]))

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
        q, k, v = (
            self._record_part(heads, i, part, qkv.group_steps[i]) for i, part in enumerate(("query", "key", "value"))
        )
        logit_scale = q.step * k.step * math.sqrt(1 / size)
        products = self._record_product("products", q, k, True, (*lead, self.heads, tokens, tokens), logit_scale)
        logits = self.logits(products) if bias is None else self._record_biased(products, bias)
        end = self._record_deferred if self.softmax.normalization == "deferred" else self._record_normalized
        return self._record_merge(end(logits, v))

    def _record_part(self, heads: Symbol, index: int, part: str, scale: float) -> Symbol:
        shape, name = heads.shape[1:], f"{self.name}.{part}"
        kept = heads.move("slice", f"{name}.slice", (1, *shape), axis=0, start=index, stop=index + 1)
        return replace(kept.reshape(name, *shape), scale=scale)

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

    def _record_biased(self, products: Symbol, bias: Tensor) -> Symbol:
        codes, m_a, m_b, shift = self._bias_parameters(bias, products.step)
        emit = products.builder.emit
        table = emit(
            "constant",
            f"{self.name}.bias",
            [],
            shape=tuple(codes.shape),
            bits=16,
            constants={"value": (codes, 16, True)},
        )
        return emit(
            "add",
            self.logits.name,
            [products, table],
            shape=products.shape,
            bits=self.logits.bits,
            scale=self.logits.scale(),
            attributes={"bits": self.logits.bits},
            constants={
                "multiplier_a": (m_a, 32, True),
                "multiplier_b": (m_b, 32, True),
                "shift": (shift, 8, True),
            },
        )

    def _record_mask(self) -> dict[str, tuple[Tensor, int, bool]]:
        if self.excluded is None:
            return {}
        mask = self.excluded.to(torch.int64)  # (W, 1, N, N)
        return {"mask": (mask if self.windows > 1 else mask[0], 1, False)}

    def _record_softmax(self, logits: Symbol, tokens: int) -> Symbol:
        attributes, constants = fields_for_emit(self.exponent(logits.step, tokens, logits.bits))
        form = {"bits": self.bits.probabilities, "normalization": self.softmax.normalization}
        return logits.builder.emit(
            "softmax",
            f"{self.name}.softmax",
            [logits],
            shape=logits.shape,
            bits=self.bits.probabilities,
            signed=self.softmax.normalization == "floor",
            scale=self.probability_scale,
            attributes={**attributes, **form},
            constants={**constants, **self._record_mask()},
        )

    def _record_normalized(self, logits: Symbol, v: Symbol) -> Symbol:
        probabilities = self._record_softmax(logits, v.shape[-2])
        scale = self.probability_scale * v.step
        return self.context(self._record_product("weighted", probabilities, v, False, v.shape, scale))

    def _record_deferred(self, logits: Symbol, v: Symbol) -> Symbol:
        tokens, bits = v.shape[-2], self.bits.probabilities
        exponent = self.exponent(logits.step, tokens, logits.bits)
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
            constants={**constants, **self._record_mask()},
        )
        sums = self._record_product("weighted", weights, v, False, v.shape, None)
        m, e = derive_mean(v.step / self.context.single_scale(), self.context.bits)
        return logits.builder.emit(
            "weighted_mean",
            self.context.name,
            [sums, weights],
            shape=v.shape,
            bits=self.context.bits,
            scale=self.context.scale(),
            attributes={"bits": self.context.bits, "multiplier": m, "shift": e},
        )

    def _record_merge(self, context: Symbol) -> Symbol:
        """(.., heads, N, D) -> (W * N, C)."""
        *lead, heads, tokens, size = context.shape
        first = len(lead)
        axes = [*range(first), first + 1, first, first + 2]
        turned = context.move("transpose", f"{self.name}.tokens", (*lead, tokens, heads, size), axes=axes)
        return turned.reshape(self.name, self.windows * tokens, heads * size)


class AttentionGradient(torch.autograd.Function):
    """Gradient of float attention at the quantized operands; the float softmax is recomputed from the logit codes."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_handle: Tensor,
        bias: Tensor | None,
        qkv: QTensor,
        logits: QTensor,
        probabilities: Tensor,
        step: Tensor | float,
        core: AttentionCore,
    ) -> Tensor:
        steps = step if isinstance(step, Tensor) else torch.full((1, 1, 1), step, device=qkv.values.device)
        ctx.save_for_backward(qkv.values, logits.values, probabilities, steps)
        ctx.scales, ctx.bits, ctx.core, ctx.kernels = qkv.scale, qkv.bits, core, core.kernels
        ctx.logit_scale, ctx.logit_bits = logits.scale, logits.bits
        batch, tokens, width = qkv.values.shape
        return handle(batch, tokens, width // 3, device=qkv.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, logit_codes, probabilities, step = ctx.saved_tensors
        core, excluded = ctx.core, ctx.core.excluded
        batch, windows, heads, tokens, _ = logit_codes.shape
        size = codes.shape[2] // (3 * heads)
        scale_q, scale_k, scale_v = ctx.scales
        operands = core._split(codes).float().reshape(3, -1, tokens, size)  # (3, B * W * heads, N, D)
        q, k, v = operands
        g = gradient.reshape(batch, windows, tokens, heads, size).transpose(2, 3).reshape(-1, tokens, size)
        result = torch.empty_like(operands)
        d_probabilities = torch.bmm(g, v.transpose(1, 2)).mul_(scale_v)
        torch.bmm(probabilities.float().transpose(1, 2), g * step, out=result[2])
        d_probabilities = d_probabilities.view(logit_codes.shape)
        masks = () if excluded is None else (excluded,)
        d_logits = ctx.kernels.softmax_gradient(d_probabilities, logit_codes, ctx.logit_scale, ctx.logit_bits, *masks)
        d_bias = d_logits.sum((0, 1)) if ctx.needs_input_grad[1] else None
        d_logits = d_logits.view(-1, tokens, tokens)
        root = math.sqrt(size)
        torch.bmm(d_logits, k, out=result[0]).mul_(scale_k / root)
        torch.bmm(d_logits.transpose(1, 2), q, out=result[1]).mul_(scale_q / root)
        result = (
            mask(result, operands, ctx.bits)
            .view(3, batch, windows, heads, tokens, size)
            .permute(1, 2, 4, 0, 3, 5)
            .reshape(codes.shape)
        )
        return result, d_bias, None, None, None, None, None
