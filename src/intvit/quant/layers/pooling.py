"""Average over tokens: an integer sum and one requantize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import divide
from intvit.quant.config import SiteConfig
from intvit.quant.layer import Layer
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle


class MeanPool(Layer):
    """Mean over the first axis."""

    def __init__(self, site: SiteConfig) -> None:
        super().__init__()
        self.output = Quantizer(site.bits.activation, site.observer.activation, site.observer)
        self.step: Derived  # scale of the sums as means

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, L, C) -> (B, C); Symbol: emit the product with a row of ones and `requantize`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            sums = x.values.sum(1, dtype=torch.int32)
            mask = self.kernels(sums).mask
            return self.output(QTensor(sums, MeanGradient.apply(x.handle, x, mask), self.step.value, 32))
        y = x.mean(1)
        if self.calibrating:
            self.output.collect(y)
        return y

    def record(self, x: Symbol) -> Symbol:
        length, channels = x.shape
        emit = x.builder.emit
        self.step = x.builder.derive(divide, x.scale, divisor=length, site=self.name)
        row = torch.ones(1, length, dtype=torch.int64)
        ones = emit(
            "constant",
            f"{self.name}.ones",
            [],
            shape=(1, length),
            bits=2,
            integers=lambda: Integers(constants={"value": (row, 2, True)}),
        )
        sums = emit(
            "matmul",
            f"{self.name}.sum",
            [ones, x],
            shape=(1, channels),
            bits=32,
            scale=self.step,
            integers=lambda: Integers({"transpose_b": False}),
        )
        return self.output(sums.reshape(f"{self.name}.flat", channels))


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
