"""Verbs on a whole model: choose the mode, freeze the ranges, look at every integer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intvit.arithmetic import divide
from intvit.quant.config import QuantConfig
from intvit.quant.layer import MODES, Layer
from intvit.quant.layers import GELU, Linear, SoftmaxMean
from intvit.quant.observer import all_gather
from intvit.quant.quantizer import Observed, Quantizer
from intvit.quant.tensor import QTensor


def quant_layers(model: nn.Module) -> Iterator[Layer]:
    """Every quantization-aware module of the model."""
    return (module for module in model.modules() if isinstance(module, Layer))


def finish_construction(model: nn.Module, config: QuantConfig) -> None:
    """Give every layer its path in the model and its kernels; models call it at the end of their construction.

    Raises QuantConfigError for an override that matches no module.
    """
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            module.name, module.compiles, module.alone = name, config.compile, False
    model.quant = config  # type: ignore[assignment]  # no module
    config.check_overrides()


def set_mode(model: nn.Module, mode: str) -> None:
    """`float`, `calibrate` (float, feeding the observers) or `integer`. Raises ValueError for anything else."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    for layer in quant_layers(model):
        layer.mode = mode


@torch.no_grad()
def forget_calibration(model: nn.Module) -> None:
    """Drop what calibration gave the layers beside ranges: offsets, rounding, corrections, clips of weights."""
    for layer in quant_layers(model):
        if isinstance(layer, Linear):
            layer.offset = layer.rounding = None
            layer.correction.zero_()
            layer.clip.fill_(1.0)
        elif isinstance(layer, GELU):
            layer.before = layer.after = None
        elif isinstance(layer, Quantizer):
            layer.collected = []  # of one that was broken off


@torch.no_grad()
def move_ranges(model: nn.Module) -> None:
    """Let the ranges follow what the training batches since the last call had, over all ranks; one exchange for all.

    A step quantizes with the ranges that it finds, and what it sees moves those of the next one.
    """
    quantizers = [layer for layer in quant_layers(model) if isinstance(layer, Quantizer) and layer.observed]
    if not quantizers:
        return
    by_method: dict[bool, list[Quantizer]] = {}
    for quantizer in quantizers:
        by_method.setdefault(quantizer.method == "minmax", []).append(quantizer)
    ordered = [quantizer for group in by_method.values() for quantizer in group]
    parts = []
    for largest, group in by_method.items():
        seen = _seen(group)
        parts.append(seen.amax(0) if largest else seen.mean(0))
    ranks = all_gather(torch.cat(parts)).split([len(part) for part in parts], 1)
    joined = [
        part.amax(0) if largest else divide(part.sum(0), len(part))
        for largest, part in zip(by_method, ranks, strict=True)
    ]
    aims = torch.cat(joined).split([quantizer.groups for quantizer in ordered])
    # In steps that are rounded alike everywhere: lerp_ fuses two on some processors, and ranks would drift apart.
    statistics = [quantizer.statistic for quantizer in ordered]
    distances = torch._foreach_sub(list(aims), statistics)
    torch._foreach_mul_(distances, [1.0 - quantizer.momentum for quantizer in ordered])
    torch._foreach_add_(statistics, distances)
    for quantizer in ordered:
        quantizer.observed = []


def _seen(quantizers: list[Quantizer]) -> Tensor:
    """What all of them kept, as real magnitudes: float64 (images, groups of all)."""
    batches = []
    for observed in zip(*(quantizer.observed for quantizer in quantizers), strict=True):
        scales = torch.cat([each.scale.value.view(-1) for each in observed])
        batches.append(torch.cat(_magnitudes(observed), 1) * scales)
    return batches[0] if len(batches) == 1 else torch.cat(batches)


def _magnitudes(observed: Sequence[Observed]) -> list[Tensor]:
    """float64 (images, groups) of each."""
    tables = [each.table for each in observed if each.table is not None]
    if not tables:
        return [each.magnitudes for each in observed]
    # The largest |value| of any code between an image's smallest and largest: (sites, images).
    extremes = torch.stack([each.magnitudes for each in observed if each.table is not None]).long()
    table = torch.stack(tables)[:, None]
    codes = torch.arange(table.shape[2], device=table.device) - table.shape[2] // 2
    within = (codes >= extremes[:, :, :1]) & (codes <= extremes[:, :, 1:])
    largest = iter(torch.where(within, table, 0.0).amax(2)[:, :, None].unbind())
    return [each.magnitudes if each.table is None else next(largest) for each in observed]


def freeze_observers(model: nn.Module, frozen: bool) -> None:
    """Stop (or resume) following the data in training mode."""
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer):
            layer.frozen = frozen
            layer.observed = []


def function_digests(model: nn.Module) -> dict[str, str]:
    """Name -> digest of the functions of users and packages that the model's softmax and GELU are."""
    layers = [layer for layer in quant_layers(model) if isinstance(layer, SoftmaxMean | GELU)]
    families = {layer.family.name: layer.family for layer in layers if layer.family.foreign}  # each once
    return {name: family.digest() for name, family in families.items()}


@torch.no_grad()
def trace(model: Any, images: Tensor) -> dict[str, np.ndarray]:
    """Integers of every layer's output in integer mode, by operator name: int64 (B, ...).

    Accumulators that a layer requantizes at once appear under the quantizer's name only.
    """
    values: dict[str, np.ndarray] = {}

    def keep(module: Layer, inputs: Any, output: Any) -> None:
        requantized = isinstance(module, Linear) and module.output is not None
        if isinstance(output, QTensor) and not requantized:
            values[module.name] = output.values.to(torch.int64).cpu().numpy()

    hooks = [layer.register_forward_hook(keep) for layer in quant_layers(model)]
    try:
        scores = model.integer_scores(images).to(torch.int64).cpu().numpy()
        if not model.scores_layer.dense:  # those are a layer's output
            values[f"{model.scores_layer.name}.scores"] = scores
    finally:
        for hook in hooks:
            hook.remove()
    return values
