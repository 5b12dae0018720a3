"""Residual addition, and constants (class token, position embedding) that join the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import container, divide, limits
from intvit.arithmetic.elementary import power_of_two
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import Kernels
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_SCALE, Addition, Quantizer, addition
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle


class Add(Layer):
    """branch accumulators + residual stream, one sum and one rounding into the stream's next range.

    output: another range, of a sum that no stream goes on with.
    """

    def __init__(self, channels: int, site: SiteConfig, output: Quantizer | None = None) -> None:
        super().__init__()
        self.output = Quantizer.of_stream(channels, site) if output is None else output
        self.derived: Derived  # Addition

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

    def integer(self, branch: QTensor, stream: QTensor, joining: Tensor | None) -> QTensor:
        """clamp((a*m_a + b*m_b + 2^(e-1)) >> e)."""
        p: Addition = self.derived.value
        kernels, output = self.kernels(branch.values), self.output
        multipliers = p.multiplier_a, p.multiplier_b, p.shift
        values, magnitudes = kernels.add(
            branch.values, stream.values, *multipliers, output.bits, observe=output.observing
        )
        if joining is not None and magnitudes is not None:
            magnitudes = torch.maximum(magnitudes, _largest(joining.detach(), output.step, output.factors))
        output.observe(magnitudes)
        gradient = AddGradient.apply(branch.handle, stream.handle, stream, kernels)
        return QTensor(values, gradient, output.step, output.bits, output.factors)

    def record(self, branch: Symbol, stream: Symbol) -> Symbol:
        """Emit `add`."""
        output = self.output
        scale = output.request_scale(branch.builder)
        tensors = branch.scale, stream.scale, stream.factors, scale, output.factors
        rows = branch.shape[-1]
        self.derived = branch.builder.derive(addition, *tensors, bits=output.bits, site=self.name, rows=rows)
        return branch.builder.emit(
            "add",
            self.name,
            [branch, stream],
            shape=branch.shape,
            bits=output.bits,
            scale=scale,
            factors=output.factors,
            integers=lambda: self.derived.value.integers(output.bits),
        )


def _largest(rows: Tensor, scale: Tensor, factors: Tensor | None) -> Tensor:
    """Largest magnitude of real rows (1, M, C) in steps of a scale, float64 (1, 1)."""
    magnitudes = rows.double().abs() if factors is None else rows.double().abs() * power_of_two(factors)
    return (magnitudes.amax() / scale).view(1, 1)


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
        self.derived: Derived  # ConstantCodes

    def forward(self, value: Tensor, like: AnyTensor, own_range: bool = False) -> AnyTensor:
        """value: real (1, N, C), expanded over the batch of `like`.

        Real, QTensor or Symbol as `like` is; scale, width and factors of `like` unless `own_range`.
        """
        if isinstance(like, Tensor):
            return value.expand(like.shape[0], -1, -1)
        bits, factors = (self.bits, None) if own_range else (like.bits, like.factors)
        if isinstance(like, Symbol):
            return self.record(value.detach(), like, None if own_range else like.scale, bits, factors)
        p: ConstantCodes = self.derived.value
        shape = (like.values.shape[0], -1, -1)
        gradient = ConstantGradient.apply(value, p.inside)
        return QTensor(p.codes.expand(shape), gradient.expand(shape), p.scale, bits, factors)

    def record(
        self, value: Tensor, like: Symbol, scale: Tensor | Derived | None, bits: int, factors: Tensor | None
    ) -> Symbol:
        """Emit `constant`."""
        self.derived = like.builder.derive(constant_codes, value, scale, factors, bits=bits, site=self.name)
        return like.builder.emit(
            "constant",
            self.name,
            [],
            shape=tuple(value.shape[1:]),
            bits=bits,
            scale=self.derived.field("scale"),
            factors=factors,
            integers=lambda: Integers(constants={"value": (self.derived.value.codes[0], bits, True)}),
        )


@dataclass(frozen=True)
class ConstantCodes:
    """codes int8 or int16 (1, N, C); inside: bool, where they did not saturate; scale: float64 ()."""

    codes: Tensor
    inside: Tensor
    scale: Tensor


def constant_codes(value: Tensor, scale: Tensor | None, factors: Tensor | None, *, bits: int) -> ConstantCodes:
    """Codes of real values (1, N, C) at a scale, or, without one, at that of the largest."""
    low, high = limits(bits)
    if scale is None:
        scale = divide(value.abs().amax().double(), high).clamp(min=SMALLEST_SCALE)
    real = value.double() if factors is None else value.double() * power_of_two(factors)
    rounded = torch.floor(real / scale + 0.5)
    codes = rounded.clamp(low, high)
    return ConstantCodes(codes.to(container(bits)), codes == rounded, scale)


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
