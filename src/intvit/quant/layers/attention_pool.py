"""Attention pooling: one query, the same for every image, attends to the tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import exponential_from_table, float_matmul, largest_weight, softmax_from_table
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import eager, full_precision
from intvit.quant.layers.softmax_mean import SoftmaxMean
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, QTensor, Symbol, handle


class PoolCore(SoftmaxMean):
    """softmax over the tokens of logits that a linear layer made, and the mean of the values, for every head.

    A query of its own for every image would make the logits a product; this one is part of the linear layer's weight.
    One row for each head: plain torch on every device.
    """

    def __init__(self, heads: int, site: SiteConfig) -> None:
        super().__init__(site)
        self.heads = heads
        self.context = Quantizer.of_activation(site)

    def forward(self, logits: AnyTensor, values: AnyTensor) -> AnyTensor:
        """(B, N, heads) and (B, N, C) -> (B, C)."""
        if isinstance(logits, Symbol):
            assert isinstance(values, Symbol)
            return self.record(logits, values)
        if isinstance(logits, QTensor):
            assert isinstance(values, QTensor)
            return self.integer(logits, values)
        assert isinstance(values, Tensor)
        y = (self._rows(logits).softmax(-1) @ self._by_head(values)).flatten(1)
        if self.calibrating:
            self.context.collect(y)
        return y

    def _rows(self, logits: Tensor) -> Tensor:
        """(B, N, heads) -> (B, heads, 1, N)."""
        return logits.transpose(1, 2).unsqueeze(2).contiguous()

    def _by_head(self, values: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, D)."""
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)

    @torch.no_grad()
    def probabilities(self, logits: Tensor | QTensor, values: Tensor | QTensor) -> Tensor:
        """What the values are weighted with for an input of `forward`: real (B, heads, 1, N), for people."""
        if isinstance(logits, Tensor):
            return self._rows(logits).softmax(-1)
        assert isinstance(values, QTensor)
        return self._attend(logits, values)[1]

    @torch.no_grad()
    def logit_codes(self, logits: QTensor, values: QTensor) -> QTensor:
        """What the softmax reads for an input of `forward`: codes (B, heads, 1, N)."""
        codes = self._rows(logits.values)
        return QTensor(codes, handle(*codes.shape, device=codes.device), logits.scale, logits.bits)

    def integer(self, logits: QTensor, values: QTensor) -> QTensor:
        """Codes to codes."""
        context, weights = self._attend(logits, values)
        gradient = PoolGradient.apply(logits.handle, values.handle, logits, values, weights, self)
        return QTensor(context, gradient, self.context.step, self.context.bits)

    def _attend(self, logits: QTensor, values: QTensor) -> tuple[Tensor, Tensor]:
        """Context codes (B, C), and the real weights of the values (B, heads, 1, N)."""
        rows, v, output = self._rows(logits.values), self._by_head(values.values), self.context
        ending, table, width = self.ending.value, self.exponentials.value.table, self.bits.probabilities
        with full_precision(rows.device):
            if self.softmax.normalization == "deferred":
                weights = exponential_from_table(rows, table, None).float()
                sums = weights.sum(-1, keepdim=True)
                products = float_matmul(weights, v, largest_weight(width, rows.shape[-1]))
                form = ending.multiplier, ending.shift, output.bits, len(rows), output.observing
                context, magnitudes = eager.mean(products.flatten(0, 1), sums.flatten(0, 1), *form)
                real = weights / sums
            else:
                probabilities = softmax_from_table(rows, table, width, self.softmax.normalization, None)
                products = float_matmul(probabilities, v, (1 << width) - 1)
                form = ending.multiplier, ending.shift, output.bits, 1, output.observing
                context, magnitudes = eager.requantize(products.flatten(1), *form)
                real = probabilities * self.probability_scale
        output.observe(magnitudes)
        return context.view(len(rows), -1), real

    def record(self, logits: Symbol, values: Symbol) -> Symbol:
        """Emit the split of heads, the softmax over the tokens, the mean of the values, and the merge."""
        tokens, width = values.shape
        size = width // self.heads
        turned = logits.move("transpose", f"{self.name}.heads", (self.heads, tokens), axes=[1, 0])
        rows = turned.reshape(f"{self.name}.rows", self.heads, 1, tokens)
        split = values.reshape(f"{self.name}.split", tokens, self.heads, size)
        v = split.move("transpose", f"{self.name}.value", (self.heads, tokens, size), axes=[1, 0, 2])
        return self.record_mean(rows, v).reshape(self.name, width)


class PoolGradient(torch.autograd.Function):
    """Gradient of float attention at the quantized operands, as `AttentionGradient`; none to a code that saturates."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_handle: Tensor,
        values_handle: Tensor,
        logits: QTensor,
        values: QTensor,
        weights: Tensor,
        core: PoolCore,
    ) -> Tensor:
        ctx.save_for_backward(logits.values, values.values, weights)
        ctx.scales, ctx.bits, ctx.core = (logits.scale, values.scale), (logits.bits, values.bits), core
        return handle(len(weights), values.values.shape[2], device=weights.device, dtype=values_handle.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, values, weights = ctx.saved_tensors
        core, (logit_scale, value_scale) = ctx.core, ctx.scales
        v = core._by_head(values).float() * value_scale.float()  # (B, heads, N, D)
        g = gradient.float().view(len(v), core.heads, 1, -1)
        d_values = (weights.transpose(2, 3) * g).transpose(1, 2).flatten(2)
        softmax = (core._rows(logits).float() * logit_scale.float()).softmax(-1)
        d_weights = g @ v.transpose(2, 3)
        d_rows = softmax * (d_weights - (softmax * d_weights).sum(-1, keepdim=True))
        d_logits = d_rows.squeeze(2).transpose(1, 2)
        logit_bits, value_bits = ctx.bits
        masked = eager.mask(d_logits, logits, logit_bits), eager.mask(d_values, values, value_bits)
        return *masked, None, None, None, None
