"""Average over tokens: an integer sum and one requantize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import divide
from intvit.quant.layer import Layer
from intvit.quant.quantizer import Addition, Quantizer, Requantization, channel_scale
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, concat, handle


class MeanPool(Layer):
    """Mean over the first axis.

    output: the range of the means; None leaves the sums as they are, accumulators at the scale of the means.

    A product takes operands of 8 bits. The codes x of a wider stream enter their sum as (x + 2) >> 2, made of the two
    operands h = (x + 128) >> 8, at most 127, and (x - 256 h + 2) >> 2: 64 times the former, and the latter.
    """

    def __init__(self, output: Quantizer | None) -> None:
        super().__init__()
        self.output = output
        self.step: Derived  # scale of the sums as means, () or, of a stream with factors, (C,)

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, L, C) -> (B, C); Symbol: emit the product with a row of ones and `requantize`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            codes = x.values if x.bits <= 8 else (x.values.to(torch.int32) + 2) >> 2
            sums = codes.sum(1, dtype=torch.int32)
            mask = self.kernels(sums).mask
            means = QTensor(sums, MeanGradient.apply(x.handle, x, mask), self.step.value, 32)
            return means if self.output is None else self.output(means)
        y = x.mean(1)
        if self.calibrating and self.output is not None:
            self.output.collect(y)
        return y

    def record(self, x: Symbol) -> Symbol:
        length, channels = x.shape
        emit = x.builder.emit
        wide = x.bits > 8
        form = {"unit": 4 if wide else 1, "length": length}
        self.step = x.builder.derive(mean_step, x.scale, x.factors, site=self.name, **form)
        operand = self._record_operands(x) if wide else x
        row = torch.tensor([[64] * length + [1] * length if wide else [1] * length])
        bits = 8 if wide else 2
        ones = emit(
            "constant",
            f"{self.name}.ones",
            [],
            shape=tuple(row.shape),
            bits=bits,
            integers=lambda: Integers(constants={"value": (row, bits, True)}),
        )
        sums = emit(
            "matmul",
            f"{self.name}.sum",
            [ones, operand],
            shape=(1, channels),
            bits=32,
            scale=self.step,
            integers=lambda: Integers({"transpose_b": False}),
        )
        means = replace(sums.reshape(f"{self.name}.flat", channels), per_channel=x.factors is not None)
        return means if self.output is None else self.output.record(means)

    def _record_operands(self, x: Symbol) -> Symbol:
        """Emit both operands of a wide stream, one after the other along the tokens: (2L, C) of 8 bits."""
        shape, emit = x.shape, x.builder.emit

        def constant(value: int) -> Tensor:
            return torch.tensor([value])

        high = emit(
            "requantize",
            f"{self.name}.high",
            [x],
            shape=shape,
            bits=8,
            integers=lambda: Requantization(constant(1), constant(8)).integers(8),
        )
        low = emit(
            "add",
            f"{self.name}.low",
            [high, x],
            shape=shape,
            bits=8,
            integers=lambda: Addition(constant(-256), constant(1), constant(2)).integers(8),
        )
        both = concat([high, low], 0, f"{self.name}.operands")
        assert isinstance(both, Symbol)
        return both


def mean_step(scale: Tensor, factors: Tensor | None, *, unit: int, length: int) -> Tensor:
    """Real value of one step of a sum of `length` codes in units of `unit`, as a mean."""
    return divide(channel_scale(scale, factors) * unit, length)


class MeanGradient(torch.autograd.Function):
    """An equal share to every token, none to a code that saturates."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, x: QTensor, mask: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(x.values)
        ctx.bits, ctx.mask = x.bits, mask
        return handle(x.values.shape[0], x.values.shape[2], device=x.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        share = divide(gradient, codes.shape[1])[:, None].expand(codes.shape)
        return ctx.mask(share.contiguous(), codes, ctx.bits), None, None
