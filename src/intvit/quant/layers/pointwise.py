"""GELU layer, and other activations: codes to codes through a table that the exact integer arithmetic fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.arithmetic import GELU_FAMILIES, apply_gelu_table, gelu_table
from intvit.quant.config import SiteConfig, family_options
from intvit.quant.kernels import Kernels, activation_gradient
from intvit.quant.layer import Layer
from intvit.quant.quantizer import SMALLEST_FUNCTION_SCALE, Quantizer
from intvit.quant.tensor import AnyTensor, QTensor, Symbol, fields_for_emit, handle

LOWEST = torch.tensor(-0.7518, dtype=torch.float64)  # where GELU is smallest


class GELU(Layer):
    """GELU, or what the family of `site.gelu` stands for, of signed codes of at most 8 bits."""

    def __init__(self, site: SiteConfig) -> None:
        super().__init__()
        self.config = site.gelu
        self.family, self.options = GELU_FAMILIES[site.gelu.family], family_options(site.gelu)
        assert self.family.real is not None
        self.real = self.family.real
        self.output = Quantizer(site.bits.activation, site.observer.activation, site.observer)

    @staticmethod
    def input_quantizer(site: SiteConfig, function: SiteConfig) -> Quantizer:
        """The quantizer for the layer that feeds a GELU: widths of `site`, scales that suit the GELU of `function`."""
        return Quantizer(
            site.bits.activation,
            site.observer.activation,
            site.observer,
            smallest_scale=SMALLEST_FUNCTION_SCALE,
            grid=GELU_FAMILIES[function.gelu.family].grid(family_options(function.gelu)),
        )

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Real or codes (B, ..., C) -> the same shape; Symbol: emit `gelu`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            return self.integer(x)
        y = self.real(x)
        if self.calibrating:
            self.output.collect(y)
        return y

    def function(self, scale: float, bits: int) -> Any:
        """The family's integer function from input `scale` and `bits` to the output range."""
        return self.family(scale, self.output.scale(), bits, self.output.bits, site=self.name, **self.options)

    def integer(self, x: QTensor) -> QTensor:
        """Codes to codes."""
        if self.output.observing:
            self._observe(x)
        table = gelu_table(self.function(x.step, x.bits), x.bits).to(x.values.device)
        values = apply_gelu_table(x.values, table)
        gradient = ActivationGradient.apply(x.handle, x, self.real, self.kernels)
        return QTensor(values, gradient, self.output.scale(), self.output.bits)

    def _observe(self, x: QTensor) -> None:
        flat = x.values.flatten(1)
        low, high = flat.amin(1).double() * x.step, flat.amax(1).double() * x.step
        if self.real is F.gelu:
            # (B, 1, 3): |GELU| is largest at an end or where GELU is smallest
            extremes = torch.stack((low, high, LOWEST.to(low).clamp(low, high)), 1)[:, None]
            self.output.observe(F.gelu(extremes), 1.0)
            return
        codes = torch.arange(-(2 ** (x.bits - 1)), 2 ** (x.bits - 1), device=flat.device).double() * x.step
        seen = (codes >= low[:, None]) & (codes <= high[:, None])  # (B, codes): any of them may hold the largest value
        self.output.observe((self.real(codes) * seen)[:, None], 1.0)

    def record(self, x: Symbol) -> Symbol:
        """Emit `gelu`."""
        attributes, constants = fields_for_emit(self.function(x.step, x.bits))
        return x.builder.emit(
            "gelu",
            self.name,
            [x],
            shape=x.shape,
            bits=self.output.bits,
            scale=self.output.scale(),
            attributes=attributes,
            constants=constants,
        )


class ActivationGradient(torch.autograd.Function):
    """Derivative of the float function at the input codes, zero where the input saturates."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, x: QTensor, real: Callable[[Tensor], Tensor], kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x.values)
        ctx.scale, ctx.bits, ctx.real, ctx.kernels = x.scale, x.bits, real, kernels
        return handle(*x.values.shape, device=x.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (codes,) = ctx.saved_tensors
        if ctx.real is F.gelu:
            return ctx.kernels.gelu_gradient(gradient, codes, ctx.scale, ctx.bits), None, None, None
        return activation_gradient(gradient, codes, ctx.scale, ctx.bits, ctx.real), None, None, None
