"""Where the program begins and ends: uint8 image to codes, classifier accumulators to int32 scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intvit.arithmetic import divide, input_parameters, quantize_input, requantize
from intvit.quant.config import SiteConfig
from intvit.quant.layer import Layer
from intvit.quant.layers.linear import Linear
from intvit.quant.quantizer import Quantizer, Requantization, channel_scale, requantization
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle

SCORE_LIMIT = 2**30  # scores keep one bit of room below int32


class InputQuantize(Layer):
    """uint8 pixels -> (pixel / 255 - mean) / std, as reals or as codes of one scale for all channels.

    The range is known beforehand: pixels 0 and 255 of every channel. Nothing is observed.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor  # real value of one code
    multiplier: Tensor  # int64 (C,)
    bias: Tensor  # int64 (C,)

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], site: SiteConfig) -> None:
        super().__init__()
        self.bits = site.bits.activation
        largest = max(max(m / s, (1 - m) / s) for m, s in zip(mean, std, strict=True))
        scale = largest / (2 ** (self.bits - 1) - 1)
        multiplier, bias, shift = input_parameters(mean, std, scale, self.bits)
        self.shift = int(shift)  # code = (pixel * multiplier + bias + 2^(shift-1)) >> shift
        buffers = {"mean": torch.tensor(mean, dtype=torch.float64), "std": torch.tensor(std, dtype=torch.float64)}
        buffers |= {"scale": torch.tensor(scale, dtype=torch.float64), "multiplier": multiplier, "bias": bias}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor | Symbol) -> AnyTensor:
        """uint8 (B, C, H, W) -> reals, or codes of the same shape; Symbol: emit `quantize_input`."""
        if isinstance(images, Symbol):
            return self.record(images)
        if self.mode != "integer":
            mean, std = (value.float().view(-1, 1, 1) for value in (self.mean, self.std))
            return (images.float() / 255.0 - mean) / std
        codes = quantize_input(images, self.multiplier, self.bias, self.shift, self.bits)
        return QTensor(codes.to(torch.int8), handle(*codes.shape, device=codes.device), self.scale, self.bits)

    def record(self, image: Symbol) -> Symbol:
        """Emit `quantize_input`."""
        constants = {"multiplier": (self.multiplier, 32, True), "bias": (self.bias, 64, True)}
        return image.builder.emit(
            "quantize_input",
            self.name,
            [image],
            shape=image.shape,
            bits=self.bits,
            scale=self.scale,
            integers=lambda: Integers({"shift": self.shift, "bits": self.bits}, constants),
        )


class Scores(Linear):
    """Classifier: int32 scores at one common scale, chosen so that no input can saturate them.

    dense: whether the scores are those of every pixel, (B, classes, H, W). limit: of the scores' magnitude.
    """

    dense = False
    limit = SCORE_LIMIT

    def configure(self, outputs: int, site: SiteConfig, output: Quantizer | None) -> None:
        """Everything but the parameters."""
        super().configure(outputs, site, output)
        self.scaling: Derived  # Requantization
        self.step: Derived  # of the scores
        self.corrected = False  # calibration images need not hold the classes in equal shares

    @property
    def score_scale(self) -> Tensor:
        """Real value of one step of the scores, as derived last, float64 ()."""
        step: Tensor = self.step.value
        return step

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, K) -> reals (B, classes); with codes, the reals are scores * scale and carry the gradient."""
        if isinstance(x, Tensor):
            return super().forward(x)
        if isinstance(x, Symbol):
            return self.record(x)
        return self.scores(x).differentiable()

    def scores(self, x: QTensor) -> QTensor:
        """int32 scores (B, classes) of codes (B, K)."""
        accumulator, p = self.accumulate(x), self.scaling.value
        values = requantize(accumulator.values, p.multiplier, p.shift, 32)
        return QTensor(values.to(torch.int32), accumulator.handle, self.step.value, 32)

    def record(self, x: Symbol) -> Symbol:
        """Emit `linear` and the `requantize` to scores."""
        accumulator, parameters = super().record(x), self.derived
        tensors = [parameters.field(name) for name in ("weight", "bias", "scale")]
        derive, site = x.builder.derive, self.name
        self.step = derive(score_step, *tensors, bits=x.bits, limit=self.limit, site=site)
        rows = accumulator.shape[-1]
        self.scaling = derive(requantization, tensors[2], self.step, None, bits=32, site=site, rows=rows)
        return x.builder.emit(
            "requantize",
            f"{self.name}.scores",
            [accumulator],
            shape=accumulator.shape,
            bits=32,
            scale=self.step,
            integers=lambda: self.scaling.value.integers(32),
        )


def score_step(weight: Tensor, bias: Tensor, scale: Tensor, *, bits: int, limit: int) -> Tensor:
    """Real value of one score step, (): the largest possible |accumulator| of any input maps to `limit`.

    weight: int8 (N, K). bias: int32 (N,). scale: of the accumulators, float64 (N,). bits: of the input.
    """
    largest = (weight.double().abs().sum(1) * 2 ** (bits - 1) + bias.double().abs()) * scale
    return divide(largest.amax().clamp(min=1e-30), limit)  # a head of zeros scores 0


class Features(Layer):
    """In place of a classifier: features as the program's output, int32 at one scale, every code as it is."""

    dense = False

    def __init__(self) -> None:
        super().__init__()
        self.scaling: Derived  # Requantization
        self.step: Derived  # of the output

    @property
    def score_scale(self) -> Tensor:
        """Real value of one step of the output, as derived last, float64 ()."""
        step: Tensor = self.step.value
        return step

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, C), real, codes or accumulators -> reals, which are the output times its scale and carry the gradient."""
        if isinstance(x, Tensor):
            return x
        return self.record(x) if isinstance(x, Symbol) else self.scores(x).differentiable()

    def scores(self, x: QTensor) -> QTensor:
        """int32 (B, C) of codes (B, C)."""
        p: Requantization = self.scaling.value
        values = requantize(x.values.to(torch.int32), p.multiplier, p.shift, 32)
        return QTensor(values.to(torch.int32), x.handle, self.step.value, 32)

    def record(self, x: Symbol) -> Symbol:
        """Emit `requantize`; its ratios are 1 or, of channels with factors, 1, 2, 4 and 8."""
        derive, site, rows = x.builder.derive, self.name, 1 if x.factors is None and not x.per_channel else x.shape[-1]
        scales = derive(channel_scale, x.scale, x.factors, site=site)
        self.step = derive(torch.amin, scales, site=site)
        self.scaling = derive(requantization, scales, self.step, None, bits=32, site=site, rows=rows)
        return x.builder.emit(
            "requantize",
            f"{self.name}.scores",
            [x],
            shape=x.shape,
            bits=32,
            scale=self.step,
            integers=lambda: self.scaling.value.integers(32),
        )


class MeanScores(Scores):
    """The mean of several classifiers (n of them), each of an equal part of the features, as one classifier.

    It owns no parameter: its weight is [W_1 | ... | W_n] / n, its bias (b_1 + ... + b_n) / n.
    """

    def __init__(self, parts: tuple[nn.Linear, ...], site: SiteConfig) -> None:
        Layer.__init__(self)
        self.parts = parts  # a tuple, so that the model alone registers them
        self.configure(parts[0].out_features, site, None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # made of its parts, where Linear has a parameter
        return divide(torch.cat([part.weight for part in self.parts], 1), len(self.parts))

    @property
    def bias(self) -> Tensor:  # type: ignore[override]  # likewise
        return torch.stack([part.bias for part in self.parts]).mean(0)
