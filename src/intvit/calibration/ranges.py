"""Ranges from calibration images, and the bias correction behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from intvit.quant.control import quant_layers, set_mode
from intvit.quant.layers import Linear
from intvit.quant.observer import broadcast, world_size
from intvit.quant.quantizer import Collected, Quantizer

CORRECTION_IMAGES = 128  # means need fewer images than ranges


def finish_calibration(model: nn.Module) -> None:
    """Fix every range and weight clip from the batches seen in mode `calibrate`.

    Raises IntVitError naming the first quantizer that saw nothing.
    """
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer | Linear):
            layer.finish()
            # Clip limits come from sums of floats, which differ between unlike processors: the first rank's count.
            for buffer in (*layer.buffers(recurse=False), layer.clip.detach()):  # which may be a parameter
                broadcast(buffer)


def wants_correction(kept: list[Tensor]) -> bool:
    """Whether bias correction takes another batch beside `kept`."""
    return sum(map(len, kept)) * world_size() < CORRECTION_IMAGES


@torch.no_grad()
def collect_statistics(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, list[Collected]]:
    """What calibration collects, by quantizer name, for `adopt_ranges`; leaves the model in eval mode, without ranges.

    Statistics are those of the float model, so that they serve every quantization of it. Channel maxima, which the
    ranges of streams with factors need, are collected where the model has factors.

    batches: calibration images, uint8 (B, C, H, W).
    """
    model.eval()
    set_mode(model, "calibrate")
    for images in batches:
        model(images)
    set_mode(model, "float")
    statistics = {}
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer):
            statistics[layer.name], layer.collected = layer.collected, []
    return statistics


@torch.no_grad()
def adopt_ranges(model: nn.Module, base: nn.Module, statistics: dict[str, list[Collected]]) -> None:
    """Parameters, ranges and bias corrections of `base`, and new ranges where the quantization of `model` differs.

    base: a calibrated model of the same architecture and size; statistics: of `collect_statistics`. Leaves the model in
    eval and integer mode.
    """
    model.load_state_dict(base.state_dict(), strict=False)  # factors per channel may be on one side only
    others: dict[str, Any] = {layer.name: layer for layer in quant_layers(base)}
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer) and layer.form() != others[layer.name].form():
            layer.collected = statistics[layer.name]
            layer.finish()
        elif isinstance(layer, Linear) and layer.bits != others[layer.name].bits:
            layer.clip.fill_(1.0)
            layer.rounding = None  # of codes of another width
            layer.finish()
    model.eval()
    set_mode(model, "integer")


Known = dict[tuple[Any, ...], dict[str, Tensor]]  # buffers of quantizers and linear layers, by name and form


@torch.no_grad()
def find_ranges(model: nn.Module, statistics: dict[str, list[Collected]], known: Known) -> None:
    """All ranges and weight clips from `collect_statistics`, as `calibrate` on the same batches finds them.

    known: ranges that earlier calls found for other quantizations of the same weights; new ones are added. Leaves the
    model in eval and integer mode, without bias correction.
    """
    key: tuple[Any, ...]
    names: tuple[str, ...]
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer):
            key, names = (layer.name, *layer.form()), ("statistic", "clip", "factors")
        elif isinstance(layer, Linear):
            key, names = (layer.name, layer.bits, layer.search_clip), ("clip",)
        else:
            continue
        buffers = {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}
        if key in known:
            for name, buffer in buffers.items():
                buffer.copy_(known[key][name])
            continue
        if isinstance(layer, Quantizer):
            layer.collected = statistics[layer.name]
        layer.finish()
        known[key] = {name: buffer.clone() for name, buffer in buffers.items()}
    model.eval()
    set_mode(model, "integer")


@torch.no_grad()
def correct_biases(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Bias correction (arXiv 1906.04721, section 4.2) of a model with ranges; leaves it in integer mode.

    Approximate functions and rounding shift the means of activations. Every linear layer but the classifier takes the
    shift of its own outputs against the float model back into its integer bias, in the order of the forward pass, so
    that each sees inputs that are corrected already.

    batches: calibration images, uint8 (B, C, H, W); each runs once in float and once in integers.
    """
    layers = list(quant_layers(model))
    corrected = [layer for layer in layers if isinstance(layer, Linear) and layer.corrected]
    for layer in corrected:
        layer.start_correction()
    for each in layers:
        each.alone = True  # what a layer derives depends on those before it, whose biases have just moved
    for images in batches if corrected else ():
        for mode in ("float", "integer"):
            set_mode(model, mode)
            model(images)
    for each in layers:
        each.alone = False
    for layer in corrected:
        layer.mean = None
    set_mode(model, "integer")
