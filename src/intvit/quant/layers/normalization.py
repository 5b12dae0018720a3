"""LayerNorm layer: residual stream to activation codes, integer statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit.arithmetic import LayerNormParameters, derive_layernorm, normalized_float64
from intvit.quant.config import SiteConfig
from intvit.quant.kernels import mask
from intvit.quant.layer import Layer
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, QTensor, Symbol, handle, power_of_two


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

    @torch.no_grad()
    def parameters_for(self, x: QTensor | Symbol, output_scale: float) -> LayerNormParameters:
        """Integer parameters of the family for input `x` and one output range."""
        gamma, beta = self.weight.detach().double(), self.bias.detach().double()
        if self.output.factors is not None:
            gamma, beta = (value * power_of_two(self.output.factors) for value in (gamma, beta))
        return derive_layernorm(
            self.config.family,
            gamma,
            beta,
            output_scale,
            x.bits,
            self.output.bits,
            channel_shift=None if x.factors is None else 3 - x.factors,
            paper=bool(self.config.paper),  # null: a family without a published form of its own
            site=self.name,
        )

    def integer(self, x: QTensor) -> QTensor:
        """Stream codes to activation codes."""
        if self.output.observing:
            self._observe(x)
        parameters = self.parameters_for(x, self.output.single_scale())
        values = self.kernels.layernorm(x.values, parameters)
        gradient = LayerNormGradient.apply(x.handle, self.weight, self.bias, x, self.epsilon)
        return QTensor(values, gradient, self.output.scale(), self.output.bits, self.output.factors)

    def _observe(self, x: QTensor) -> None:
        normalizer = self.parameters_for(x, self.output.single_scale()).normalizer
        flat = normalized_float64(x.values, normalizer).view(x.values.shape[0], -1, x.values.shape[-1])
        # Extremes of gamma*n + beta over the tokens of each image, from the extremes of n.
        extremes = torch.stack((flat.amin(1), flat.amax(1)), 1) * (normalizer.scale * self.weight.detach().double())
        self.output.observe(extremes.add_(self.bias.detach().double()), 1.0)

    def record(self, x: Symbol) -> Symbol:
        """Emit `layernorm`."""
        parameters = self.parameters_for(x, self.output.single_scale())
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
        return x.builder.emit(
            "layernorm",
            self.name,
            [x],
            shape=x.shape,
            bits=self.output.bits,
            scale=self.output.scale(),
            factors=self.output.factors,
            attributes=attributes,
            constants=constants,
        )


class LayerNormGradient(torch.autograd.Function):
    """Gradient of the float LayerNorm at the stream's real values, recomputed from its codes."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, weight: Tensor, bias: Tensor, x: QTensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(x.values, weight, x.factors)
        ctx.scale, ctx.bits, ctx.epsilon = x.scale, x.bits, epsilon
        return handle(*x.values.shape, device=x.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        codes, weight, factors = ctx.saved_tensors
        codes = codes.float()
        real = codes * ctx.scale if factors is None else codes * (ctx.scale / power_of_two(factors)).float()
        shape = [weight.shape[0]]
        _, mean, rstd = torch.native_layer_norm(real, shape, None, None, ctx.epsilon)
        dx, dw, db = torch.ops.aten.native_layer_norm_backward(
            gradient.contiguous(), real, shape, mean, rstd, weight, weight, [True, True, True]
        )
        return mask(dx, codes, ctx.bits), dw, db, None, None
