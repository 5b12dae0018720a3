"""LayerNorm layer: residual stream to activation codes, integer statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit.arithmetic import LayerNormParameters, derive_affine, derive_normalizer
from intvit.arithmetic.elementary import power_of_two
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import Kernels
from intvit.quant.layer import Layer
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, gradient_dtype, handle


class LayerNorm(Layer):
    """LayerNorm over the last axis, family from `site.layernorm`; gamma and beta both train.

    stream: the output is a residual stream (Swin normalizes its patches), not an operand.
    epsilon: of the float function; the integer methods need none, a constant row gives beta.
    """

    def __init__(self, channels: int, site: SiteConfig, *, stream: bool = False, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.config = site.layernorm
        self.derived: Derived  # LayerNormParameters
        if stream:
            self.output = Quantizer.of_stream(channels, site)
        else:
            self.output = Quantizer(site.bits.activation, site.observer.layernorm, site.observer)

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Real or stream codes (B, ..., C) -> real or activation codes; Symbol: emit `layernorm`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            return self.integer(x)
        y = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        if self.calibrating:
            self.output.collect(y)
        return y

    def integer(self, x: QTensor) -> QTensor:
        """Stream codes to activation codes."""
        kernels, output = self.kernels(x.values), self.output
        values, magnitudes = kernels.layernorm(x.values, self.derived.value, output.observing)
        output.observe(magnitudes)
        gradient = LayerNormGradient.apply(x.handle, self.weight, self.bias, x, self.epsilon, kernels, output.stream)
        return QTensor(values, gradient, output.step, output.bits, output.factors)

    def record(self, x: Symbol) -> Symbol:
        """Emit `layernorm`."""
        output = self.output
        scale = output.request_scale(x.builder)
        form = {"method": self.config.family, "bits_in": x.bits, "bits": output.bits, "channels": len(self.weight)}
        self.derived = x.builder.derive(
            normalization,
            self.weight.detach(),
            self.bias.detach(),
            scale,
            x.factors,
            output.factors,
            site=self.name,
            rows=len(self.weight),
            paper=bool(self.config.paper),  # null: a family without a published form of its own
            **form,
        )
        return x.builder.emit(
            "layernorm",
            self.name,
            [x],
            shape=x.shape,
            bits=output.bits,
            scale=scale,
            factors=output.factors,
            integers=self._integers,
        )

    def _integers(self) -> Integers:
        parameters: LayerNormParameters = self.derived.value
        normalizer = parameters.normalizer
        attributes: dict[str, Any] = {
            "method": normalizer.method,
            "bits": parameters.bits,
            "normalizer_shift": normalizer.normalizer_shift,
        }
        if normalizer.method == "ivit":
            attributes["newton_steps"] = normalizer.newton_steps
        if normalizer.method == "ibert":
            attributes["square_shift"] = normalizer.square_shift
        constants = {
            "multiplier": (parameters.multiplier, 32, True),
            "bias": (parameters.bias, 64, True),
            "shift": (parameters.shift, 8, True),
        }
        if normalizer.channel_shift is not None:
            constants["channel_shift"] = (normalizer.channel_shift, 8, True)
        return Integers(attributes, constants)


def normalization(
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    factors_in: Tensor | None,
    factors: Tensor | None,
    *,
    method: str,
    bits_in: int,
    bits: int,
    channels: int,
    paper: bool,
) -> LayerNormParameters:
    """From a stream with factors `factors_in` to codes of `scale` with `factors`: rows of channels."""
    gamma, beta = weight.double(), bias.double()
    if factors is not None:
        gamma, beta = gamma * power_of_two(factors), beta * power_of_two(factors)
    shift = None if factors_in is None else 3 - factors_in
    normalizer = derive_normalizer(method, channels, bits_in, channel_shift=shift, paper=paper)
    return derive_affine(normalizer, gamma, beta, scale, bits)


class LayerNormGradient(torch.autograd.Function):
    """Gradient of the float LayerNorm at the stream's real values, recomputed from its codes."""

    @staticmethod
    def forward(
        ctx: Any,
        x_handle: Tensor,
        weight: Tensor,
        bias: Tensor,
        x: QTensor,
        epsilon: float,
        kernels: Kernels,
        stream: bool,
    ) -> Tensor:
        ctx.save_for_backward(x.values, weight, x.factors)
        ctx.scale, ctx.bits, ctx.epsilon = x.scale, x.bits, epsilon
        ctx.kernels = kernels
        device = x.values.device
        return handle(*x.values.shape, device=device, dtype=torch.float32 if stream else gradient_dtype(device))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, weight, factors = ctx.saved_tensors
        operands = codes, factors, ctx.scale, weight, ctx.epsilon, ctx.bits
        return *ctx.kernels.layernorm_gradient(gradient, *operands), None, None, None, None
