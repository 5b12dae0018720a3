"""What one change of the quantization does to the scores: each site and each operator swapped alone.

A change is a `quant.overrides` entry, so that every row of the table can be trained, exported or searched over as it
stands. Effects are measured against the float model of the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.analysis.block_cache import blocks, blocks_before, recorded, resumed
from intvit.analysis.distances import decibels, divergence
from intvit.analysis.layer_error import kind_of
from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES
from intvit.quant import QTensor, quant_layers, set_mode
from intvit.quant.config import LOGIT_BITS, OPERAND_BITS
from intvit.quant.layer import Layer
from intvit.quant.layers import GELU, Features, LayerNorm, LearnedConstant, Linear, Scores, SoftmaxMean
from intvit.quant.quantizer import Quantizer

EVERYWHERE = "*"  # the pattern of a change to all sites


STRIDE = 8  # of the pixels that are looked at, where each has scores


@dataclass(frozen=True)
class Change:
    """Entries of quant.overrides. site: a module's path or `*`; kind: the operator's; change: old → new in words."""

    site: str
    kind: str
    change: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """Scores of N images, or pixels, against the float model's.

    top1, agreement: percent of images with the labelled class, with the float model's class. divergence: mean KL
    divergence of the class probabilities, in bits. sqnr: of the scores, each image's mean taken off, in decibels.
    """

    top1: float
    agreement: float
    divergence: float
    sqnr: float


@dataclass(frozen=True)
class Measured:
    """A change and its effect.

    moved: mean KL divergence of the class probabilities from the unchanged integer model's, in bits: what the change
    alone does, with less noise than the difference of two divergences from float, `added`.
    """

    change: Change
    effect: Effect
    moved: float
    added: float


def rows(values: Tensor) -> Tensor:
    """Scores (N, classes), or labels (N,), as they are; of every pixel, (N, classes, H, W) or (N, H, W), as rows.

    Of pixels every STRIDE-th of both axes: neighbours are interpolated from the same scores.
    """
    if values.ndim < 3:
        return values
    taken = values[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    return taken.flatten() if values.ndim == 3 else taken.movedim(1, 3).flatten(0, 2)


def effect(logits: Tensor, reference: Tensor, labels: Tensor) -> Effect:
    """Effect of logits (N, classes) against the float model's; a label below 0 stands for none."""
    known = labels >= 0
    logits, reference = logits.double(), reference.double()
    centred, error = (x - x.mean(1, keepdim=True) for x in (reference, logits - reference))
    return Effect(
        top1=100.0 * float((logits.argmax(1) == labels)[known].double().mean()),
        agreement=100.0 * float((logits.argmax(1) == reference.argmax(1)).double().mean()),
        divergence=scores_divergence(logits, reference),
        sqnr=decibels(float(centred.square().sum()), float(error.square().sum())),
    )


def scores_divergence(logits: Tensor, reference: Tensor) -> float:
    """Mean KL divergence of the class probabilities of logits (N, classes), in bits."""
    return float(divergence(logits.double().softmax(1), reference.double().softmax(1)).mean())


def changes(analyzed: AnalyzedModel, widths: Sequence[int]) -> list[Change]:
    """Every single change: another family, another width of weights or activations, the other residual width.

    widths: of weights and activations to try. First the changes of every site of a kind together, then site by site.
    """
    single = [change for layer in quant_layers(analyzed.model) for change in _of_layer(analyzed, layer, widths)]
    together: dict[tuple[str, str], Change] = {}
    for change in single:
        known = together.setdefault((change.kind, change.change), replace(change, site=EVERYWHERE, overrides={}))
        known.overrides.update(change.overrides)
    return [*together.values(), *single]


def _of_layer(analyzed: AnalyzedModel, layer: Layer, widths: Sequence[int]) -> Iterator[Change]:
    # a part of another layer; takes the width of the stream that it joins
    if isinstance(layer, Quantizer | LearnedConstant):
        return
    site, kind = analyzed.quant.site(layer.name), kind_of(layer)
    for group, families in _families_of(layer).items():
        old = getattr(site, group).family
        for new in families:
            if new not in (old, "float"):
                label, overrides = _label(group, kind, f"{old} → {new}"), {layer.name: {group: {"family": new}}}
                yield Change(layer.name, kind, label, overrides)
    for key in _widths_of(layer):
        old, narrowest = getattr(site.bits, key), (LOGIT_BITS if key == "logits" else OPERAND_BITS)[0]
        for bits in widths:
            if narrowest <= bits < old:
                yield Change(layer.name, kind, f"{key} {old} → {bits} bits", {layer.name: {"bits": {key: bits}}})
    if _is_stream(layer) and analyzed.quant.observer.residual == "minmax":
        width = site.bits.residual
        other = 16 if width <= 8 else 8
        parts = {"bits": {"residual": other, "residual_factors": other <= 8}}
        yield Change(layer.name, kind, _label("residual", kind, f"{width} → {other} bits"), {layer.name: parts})


def _families_of(layer: Layer) -> dict[str, Iterable[str]]:
    """Config group of the layer's function -> families that stand for the same float function."""
    if isinstance(layer, SoftmaxMean):
        return {"softmax": SOFTMAX_FAMILIES}
    if isinstance(layer, GELU):
        alike = GELU_FAMILIES.standing_for(layer.family.real)
        if layer.before is not None:  # calibration has given it offsets, which tables alone can have
            alike = [name for name in alike if GELU_FAMILIES[name].exact is not None]
        return {"gelu": alike}
    return {"layernorm": LAYERNORM_METHODS} if isinstance(layer, LayerNorm) else {}


def _label(key: str, kind: str, change: str) -> str:
    return change if key == kind else f"{key} {change}"


def _widths_of(layer: Layer) -> list[str]:
    """Keys of `bits` that this layer reads, the residual's aside."""
    keys = ["weight"] if isinstance(layer, Linear) else []
    if isinstance(layer, SoftmaxMean):
        keys.append("logits")
    without_range = isinstance(layer, Scores | Features) or getattr(layer, "output", layer) is None
    return keys if _is_stream(layer) or without_range else [*keys, "activation"]


def _is_stream(layer: Layer) -> bool:
    return bool(getattr(getattr(layer, "output", None), "stream", False))


class Sensitivity:
    """Measures changes of one model on the same images; `base` is the unchanged model's effect."""

    def __init__(self, analyzed: AnalyzedModel, images: Tensor, labels: Tensor, batch: int) -> None:
        self.analyzed, self.labels = analyzed, rows(labels)
        self.batches = torch.split(images, batch)
        set_mode(analyzed.model, "float")
        self.reference = torch.cat([logits for logits, _ in self._run(analyzed.model)])
        set_mode(analyzed.model, "integer")
        runs = list(self._run(analyzed.model))
        self.unchanged = torch.cat([logits for logits, _ in runs])
        self.base = effect(self.unchanged, self.reference, self.labels)
        self._outputs = [outputs for _, outputs in runs]

    @torch.no_grad()
    def _run(self, model: nn.Module) -> Iterator[tuple[Tensor, list[Any]]]:
        for images in self.batches:
            with recorded(model) as outputs:
                logits = model(images)
            yield rows(logits), outputs

    @torch.no_grad()
    def _logits(self, model: nn.Module, known: Callable[[list[Any]], list[Any]]) -> Tensor:
        """Logits of all images, computed behind the block outputs that `known` leaves of the base model's."""
        parts = []
        for images, outputs in zip(self.batches, self._outputs, strict=True):
            with resumed(model, known(outputs)):
                parts.append(rows(model(images)))
        return torch.cat(parts)

    def measure(self, change: Change) -> Measured:
        """The change alone, beside the configuration of the model as it is."""
        model = self.analyzed.variant(change.overrides)
        count = blocks_before(model, change.site)
        logits = self._logits(model, lambda outputs: outputs[:count])
        result = effect(logits, self.reference, self.labels)
        moved = scores_divergence(logits, self.unchanged)
        return Measured(change, result, moved, result.divergence - self.base.divergence)

    def cost(self, change: Change) -> float:
        """Share of a forward pass that measuring takes, for progress."""
        total = len(blocks(self.analyzed.model))
        return 1.0 - 0.9 * blocks_before(self.analyzed.model, change.site) / max(total, 1)

    def integer_up_to(self, count: int) -> Effect:
        """Integers up to and including the first `count` blocks, float behind them."""
        model = self.analyzed.model
        set_mode(model, "float")

        def known(outputs: list[Any]) -> list[Any]:
            return [output.real() if isinstance(output, QTensor) else output for output in outputs[:count]]

        try:
            return effect(self._logits(model, known), self.reference, self.labels)
        finally:
            set_mode(model, "integer")
