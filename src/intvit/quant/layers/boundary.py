"""Where the program begins and ends: uint8 image to codes, classifier accumulators to int32 scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intvit.arithmetic import divide, encode_ratios, input_parameters, quantize_input, requantize
from intvit.quant.config import SiteConfig
from intvit.quant.layer import Layer
from intvit.quant.layers.linear import Linear
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, QTensor, Symbol, handle

SCORE_LIMIT = 2**30  # scores keep one bit of room below int32


class InputQuantize(Layer):
    """uint8 pixels -> (pixel / 255 - mean) / std, as reals or as codes of one scale for all channels.

    The range is known beforehand: pixels 0 and 255 of every channel. Nothing is observed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], site: SiteConfig) -> None:
        super().__init__()
        self.bits = site.bits.activation
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64), persistent=False)

    def scale(self) -> float:
        """Real value of one code."""
        largest = torch.maximum(self.mean / self.std, (1 - self.mean) / self.std).max()
        return float(largest) / (2 ** (self.bits - 1) - 1)

    def integer_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """multiplier int64 (C,), bias int64 (C,), shift: code = (pixel*multiplier + bias + 2^(shift-1)) >> shift."""
        mean, std = self.mean.tolist(), self.std.tolist()
        multiplier, bias, shift = input_parameters(mean, std, self.scale(), self.bits)
        return multiplier.to(self.mean.device), bias.to(self.mean.device), shift.to(self.mean.device)

    def forward(self, images: Tensor | Symbol) -> AnyTensor:
        """uint8 (B, C, H, W) -> reals, or codes of the same shape; Symbol: emit `quantize_input`."""
        if isinstance(images, Symbol):
            return self.record(images)
        if self.mode != "integer":
            mean, std = (value.float().view(-1, 1, 1) for value in (self.mean, self.std))
            return (divide(images.float(), 255.0) - mean) / std
        multiplier, bias, shift = self.integer_parameters()
        codes = quantize_input(images, multiplier, bias, shift, self.bits)
        return QTensor(codes.to(torch.int8), handle(*codes.shape, device=codes.device), self.scale(), self.bits)

    def record(self, image: Symbol) -> Symbol:
        """Emit `quantize_input`."""
        multiplier, bias, shift = self.integer_parameters()
        return image.builder.emit(
            "quantize_input",
            self.name,
            [image],
            shape=image.shape,
            bits=self.bits,
            scale=self.scale(),
            attributes={"shift": shift, "bits": self.bits},
            constants={"multiplier": (multiplier, 32, True), "bias": (bias, 64, True)},
        )


class Scores(Linear):
    """Classifier: int32 scores at one common scale, chosen so that no input can saturate them."""

    def configure(self, outputs: int, site: SiteConfig, output: Quantizer | None) -> None:
        """Everything but the parameters."""
        super().configure(outputs, site, output)
        self.corrected = False  # calibration images need not hold the classes in equal shares

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, K) -> reals (B, classes); with codes, the reals are scores * scale and carry the gradient."""
        if isinstance(x, Tensor):
            return super().forward(x)
        if isinstance(x, Symbol):
            return self.record(x)
        return self.scores(x).differentiable()

    def score_scale(self, x: QTensor | Symbol) -> float:
        """Real value of one score step: the largest possible |accumulator| maps to SCORE_LIMIT."""
        parameters = self.integer_parameters(x.step)
        largest = parameters.weight.double().abs().sum(1) * 2 ** (x.bits - 1) + parameters.bias.double().abs()
        return max(float((largest * parameters.scale).max()), 1e-30) / SCORE_LIMIT  # a head of zeros scores 0

    @torch.no_grad()
    def _multipliers(self, x: QTensor | Symbol, scale: float) -> tuple[Tensor, Tensor]:
        return encode_ratios(divide(x.channel_steps, scale), 32)

    def scores(self, x: QTensor) -> QTensor:
        """int32 scores (B, classes) of codes (B, K)."""
        accumulator, scale = self.accumulate(x), self.score_scale(x)
        values = requantize(accumulator.values, *self._multipliers(accumulator, scale), 32)
        return QTensor(values.to(torch.int32), accumulator.handle, scale, 32)

    def record(self, x: Symbol) -> Symbol:
        """Emit `linear` and the `requantize` to scores."""
        accumulator, scale = super().record(x), self.score_scale(x)
        multiplier, shift = self._multipliers(accumulator, scale)
        return x.builder.emit(
            "requantize",
            f"{self.name}.scores",
            [accumulator],
            shape=accumulator.shape,
            bits=32,
            scale=scale,
            attributes={"bits": 32, "signed": True},
            constants={"multiplier": (multiplier, 32, True), "shift": (shift, 8, True)},
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
