"""Every layer of a calibrated model, float against integer, on the same images: error, saturation, range, attention.

Two errors are told apart: `sqnr` compares with the float model, so that it holds what came before; `own_sqnr` gives
the float layer the integer layer's own inputs, so that only what this layer adds is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from intvit.analysis.distances import decibels, divergence
from intvit.quant import QTensor, quant_layers, set_mode
from intvit.quant.layer import Layer
from intvit.quant.layers import (
    GELU,
    Add,
    Features,
    InputQuantize,
    LayerNorm,
    LearnedConstant,
    Linear,
    MeanPool,
    SoftmaxMean,
)
from intvit.quant.quantizer import Quantizer

KINDS: dict[type, str] = {
    InputQuantize: "input",
    SoftmaxMean: "attention",
    GELU: "gelu",
    LayerNorm: "layernorm",
    Add: "residual",
    LearnedConstant: "constant",
    MeanPool: "pooling",
    Features: "features",
    Linear: "linear",
}


def kind_of(layer: Layer) -> str:
    """The layer's operator in one word."""
    return next(kind for base, kind in KINDS.items() if isinstance(layer, base))


@dataclass
class LayerError:
    """Sums over images of one layer's output; `float` of the real layer's, `integer` of what the codes stand for."""

    layer: str
    kind: str
    bits: int | None = None
    float_power: float = 0.0
    integer_power: float = 0.0
    product: float = 0.0
    error: float = 0.0
    own_power: float = 0.0
    own_error: float = 0.0
    codes: int = 0
    saturated: int = 0
    largest: int = 0

    @property
    def sqnr(self) -> float:
        """Decibels: power of the float output over power of the difference."""
        return decibels(self.float_power, self.error)

    @property
    def own_sqnr(self) -> float:
        """Decibels, for the float layer at the integer layer's inputs."""
        return decibels(self.own_power, self.own_error)

    @property
    def cosine(self) -> float:
        """Between all float and all integer outputs."""
        return self.product / max(math.sqrt(self.float_power * self.integer_power), 1e-300)

    @property
    def saturation(self) -> float | None:
        """Percent of codes at an end of the width; None for accumulators and scores."""
        return 100.0 * self.saturated / self.codes if self.codes else None

    @property
    def range_used(self) -> float | None:
        """Largest |code| in percent of the width's."""
        return 100.0 * self.largest / (1 << (self.bits - 1)) if self.codes and self.bits else None

    def add(self, real: Tensor, output: Any, own: Tensor) -> None:
        """One batch: float output, integer output, float output at the integer inputs."""
        integer = output.real() if isinstance(output, QTensor) else output
        real, integer, own = (tensor.double() for tensor in (real, integer, own))
        self.float_power += _power(real)
        self.integer_power += _power(integer)
        self.product += float((real * integer).sum())
        self.error += _power(real - integer)
        self.own_power += _power(own)
        self.own_error += _power(own - integer)
        if isinstance(output, QTensor) and output.bits <= 16:
            top = 1 << (output.bits - 1)
            values = output.values.to(torch.int32)
            self.bits = output.bits
            self.codes += values.numel()
            self.saturated += int(((values == -top) | (values == top - 1)).sum())
            self.largest = max(self.largest, -int(values.min()), int(values.max()))


@dataclass
class AttentionError:
    """Sums over the attention rows of one layer: entropies in bits, and how far the rows are apart."""

    layer: str
    rows: int = 0
    float_entropy: float = 0.0
    integer_entropy: float = 0.0
    divergence: float = 0.0

    def add(self, real: Tensor, integer: Tensor) -> None:
        """Probabilities (..., N) of the same rows."""
        real, integer = real.double(), integer.double()
        self.rows += real[..., 0].numel()
        self.float_entropy += _entropy(real)
        self.integer_entropy += _entropy(integer)
        self.divergence += float(divergence(integer, real).sum())

    def mean(self, key: str) -> float:
        """`float_entropy`, `integer_entropy` or `divergence`, bits for each row."""
        return float(getattr(self, key)) / max(self.rows, 1)


@dataclass
class LayerErrors:
    """By layer, in the order of the forward pass."""

    layers: dict[str, LayerError] = field(default_factory=dict)
    attention: dict[str, AttentionError] = field(default_factory=dict)


@torch.no_grad()
def layer_errors(model: nn.Module, images: Tensor, batch: int, progress: Callable[[], None]) -> LayerErrors:
    """Errors of all layers over uint8 images (N, C, H, W); `progress` is called after every batch.

    The model is left in integer mode. A batch's float outputs of every layer are in memory at once.
    """
    result = LayerErrors()
    for part in torch.split(images, batch):
        floats: dict[str, Tensor] = {}
        attention: dict[str, Tensor] = {}
        set_mode(model, "float")
        with _hooked(model, lambda layer, x, _, y: _keep_float(layer, x, y, floats, attention)):  # noqa: B023
            model(part)
        set_mode(model, "integer")
        with _hooked(model, lambda layer, x, k, y: _compare(result, layer, x, k, y, floats, attention)):  # noqa: B023
            model(part)
        progress()
    return result


def _keep_float(
    layer: Layer, inputs: tuple[Any, ...], output: Any, floats: dict[str, Tensor], attention: dict[str, Tensor]
) -> None:
    floats[layer.name] = output
    if isinstance(layer, SoftmaxMean):
        attention[layer.name] = layer.probabilities(*inputs)


def _compare(
    result: LayerErrors,
    layer: Layer,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    output: Any,
    floats: dict[str, Tensor],
    attention: dict[str, Tensor],
) -> None:
    real_inputs = [x.real() if isinstance(x, QTensor) else x for x in inputs]
    layer.mode = "float"
    own = layer.forward(*real_inputs, **options)  # not a call: hooks are for the model's own pass
    layer.mode = "integer"
    error = result.layers.setdefault(layer.name, LayerError(layer.name, kind_of(layer)))
    error.add(floats.pop(layer.name), output, own)
    if isinstance(layer, SoftmaxMean):
        rows = result.attention.setdefault(layer.name, AttentionError(layer.name))
        rows.add(attention.pop(layer.name), layer.probabilities(*inputs))


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[Any, Any, Any, Any], None]) -> Iterator[None]:
    """`hook` sees (layer, inputs, keyword inputs, output) of every layer but the quantizers inside others."""
    seen = [layer for layer in quant_layers(model) if not isinstance(layer, Quantizer)]
    hooks = [layer.register_forward_hook(hook, with_kwargs=True) for layer in seen]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _power(x: Tensor) -> float:
    return float(x.square().sum())


def _entropy(probabilities: Tensor) -> float:
    return float(-torch.special.xlogy(probabilities, probabilities).sum()) / math.log(2)
