"""Residual addition, and constants (class token, position embedding) that join the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import container, divide, encode_pair, limits
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import Kernels
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_SCALE, Quantizer
from intvit.quant.tensor import AnyTensor, Builder, QTensor, Scale, Symbol, handle, power_of_two


class Add(Layer):
    """branch accumulators + residual stream, one sum and one rounding into the stream's next range."""

    def __init__(self, channels: int, site: SiteConfig) -> None:
        super().__init__()
        self.output = Quantizer.of_stream(channels, site)

    def forward(self, branch: AnyTensor, stream: AnyTensor, joining: Tensor | None = None) -> AnyTensor:
        """(B, N, C) accumulators with per-channel scale, (B, N, C) stream -> stream; Symbols: emit `add`.

        joining: real (1, M, C), rows that join the result later and must lie in its range (the class token).
        """
        if isinstance(branch, Symbol) and isinstance(stream, Symbol):
            return self.record(branch, stream)
        if isinstance(branch, QTensor) and isinstance(stream, QTensor):
            return self.integer(branch, stream, joining)
        assert isinstance(branch, Tensor)
        assert isinstance(stream, Tensor)
        y = branch + stream
        if self.calibrating:
            self.output.collect(_joined(y, joining))
        return y

    def multipliers(self, branch: QTensor | Symbol, stream: QTensor | Symbol) -> tuple[Tensor, Tensor, Tensor]:
        """(m_a, m_b, e), int64 (C,)."""
        scale = branch.channel_steps
        device, channels = scale.device, scale.shape[0]
        target = self.output.channel_scale(channels, device)
        stream_scale = torch.tensor(stream.step, dtype=torch.float64, device=device)
        if stream.factors is not None:
            stream_scale = stream_scale / power_of_two(stream.factors)
        ratio_a, ratio_b = scale / target, (stream_scale / target).expand(channels)
        return encode_pair(ratio_a, ratio_b, self.output.bits)

    def integer(self, branch: QTensor, stream: QTensor, joining: Tensor | None) -> QTensor:
        """clamp((a*m_a + b*m_b + 2^(e-1)) >> e)."""
        if self.output.observing:
            self.output.observe(_joined(self._real_sum(branch, stream), joining), 1.0)
        values = self.kernels.add(branch.values, stream.values, *self.multipliers(branch, stream), self.output.bits)
        gradient = AddGradient.apply(branch.handle, stream.handle, stream, self.kernels)
        return QTensor(values, gradient, self.output.scale(), self.output.bits, self.output.factors)

    @staticmethod
    def _real_sum(branch: QTensor, stream: QTensor) -> Tensor:
        scale = torch.full((1,), stream.step, device=branch.values.device)
        if stream.factors is not None:
            scale = scale / power_of_two(stream.factors).float()
        return torch.addcmul(branch.values * branch.channel_steps.float(), stream.values.float(), scale)

    def record(self, branch: Symbol, stream: Symbol) -> Symbol:
        """Emit `add`."""
        m_a, m_b, shift = self.multipliers(branch, stream)
        return branch.builder.emit(
            "add",
            self.name,
            [branch, stream],
            shape=branch.shape,
            bits=self.output.bits,
            scale=self.output.scale(),
            factors=self.output.factors,
            attributes={"bits": self.output.bits},
            constants={
                "multiplier_a": (m_a, 32, True),
                "multiplier_b": (m_b, 32, True),
                "shift": (shift, 8, True),
            },
        )


def _joined(rows: Tensor, joining: Tensor | None) -> Tensor:
    if joining is None:
        return rows
    return torch.cat((rows, joining.detach().expand(rows.shape[0], -1, -1)), 1)


class AddGradient(torch.autograd.Function):
    """Identity to both inputs; none to a stream code that saturates."""

    @staticmethod
    def forward(ctx: Any, branch_handle: Tensor, stream_handle: Tensor, stream: QTensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(stream.values)
        ctx.bits, ctx.mask = stream.bits, kernels.mask
        return handle(*branch_handle.shape, device=stream.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        return gradient, ctx.mask(gradient, codes.expand_as(gradient), ctx.bits), None, None


class LearnedConstant(Layer):
    """A learned constant (class token, position embedding) as integers of the stream's width.

    It takes the range of the value `like`, or its own largest magnitude when `like` is None.
    """

    def __init__(self, site: SiteConfig) -> None:
        super().__init__()
        self.bits = site.bits.residual

    def forward(self, value: Tensor, like: AnyTensor, own_range: bool = False) -> AnyTensor:
        """value: real (1, N, C), expanded over the batch of `like`.

        Real, QTensor or Symbol as `like` is; scale, width and factors of `like` unless `own_range`.
        """
        if isinstance(like, Tensor):
            return value.expand(like.shape[0], -1, -1)
        scale, bits, factors = (
            (self._own_scale(value), self.bits, None) if own_range else (like.step, like.bits, like.factors)
        )
        codes, inside = self._codes(value, scale, bits, factors)
        if isinstance(like, Symbol):
            return self.record(codes, like.builder, scale, bits, factors)
        batch = like.values.shape[0]
        gradient = ConstantGradient.apply(value, inside)
        return QTensor(
            codes.to(container(bits)).expand(batch, -1, -1), gradient.expand(batch, -1, -1), scale, bits, factors
        )

    def _own_scale(self, value: Tensor) -> float:
        return max(float(value.detach().abs().max()) / (2 ** (self.bits - 1) - 1), SMALLEST_SCALE)

    @staticmethod
    def _codes(value: Tensor, scale: float, bits: int, factors: Tensor | None) -> tuple[Tensor, Tensor]:
        real = value.detach().double()
        if factors is not None:
            real = real * power_of_two(factors)
        low, high = limits(bits, True)
        rounded = torch.floor(divide(real, scale) + 0.5)
        codes = rounded.clamp(low, high)
        return codes.to(torch.int64), codes == rounded

    def record(self, codes: Tensor, builder: Builder, scale: Scale, bits: int, factors: Tensor | None) -> Symbol:
        """Emit `constant`."""
        return builder.emit(
            "constant",
            self.name,
            [],
            shape=tuple(codes.shape[1:]),
            bits=bits,
            scale=scale,
            factors=factors,
            constants={"value": (codes[0], bits, True)},
        )


class ConstantGradient(torch.autograd.Function):
    """Straight through inside the range."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return handle(*value.shape, device=value.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None
