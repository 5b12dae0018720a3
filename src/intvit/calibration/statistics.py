"""What the steps before the ranges look at: outputs of the float model on some images, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from intvit.calibration.dataflow import Dataflow
from intvit.calibration.equalization import Seen
from intvit.calibration.heads import attentions
from intvit.models.base import ImageModel
from intvit.quant.control import set_mode
from intvit.quant.layer import Layer
from intvit.quant.layers import GELU, AttentionCore, LayerNorm

_ROWS = 1024  # kept of each tensor, spread over the images


@dataclass
class Statistics:
    """By name of a layer: means of queries, keys and values (3C,); inputs of activation functions and contexts of
    attention, (rows, C); outputs of norms.
    """

    means: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    contexts: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Seen] = field(default_factory=dict)


@torch.no_grad()
def look(model: ImageModel, flow: Dataflow, batches: Sequence[Tensor]) -> Statistics:
    """One pass over uint8 batches (B, C, H, W) in float mode."""
    set_mode(model, "float")
    kept: dict[Layer, list[Tensor]] = {}
    sums: dict[Layer, tuple[Tensor, int]] = {}
    ends: dict[Layer, tuple[Tensor, Tensor]] = {}
    share = max(1, _ROWS // sum(map(len, batches)))  # rows of an image

    def keep(layer: Layer, x: Tensor) -> None:
        rows = x.flatten(1, -2) if x.dim() > 2 else x[:, None]
        places = torch.linspace(0, rows.shape[1] - 1, min(share, rows.shape[1]), device=x.device).long()
        kept.setdefault(layer, []).append(rows[:, places].flatten(0, 1))

    def of_norm(layer: Layer, _: Any, output: Tensor) -> None:
        flat = output.flatten(0, -2)
        low, high = flat.amin(0), flat.amax(0)
        if layer in ends:
            low, high = torch.minimum(low, ends[layer][0]), torch.maximum(high, ends[layer][1])
        ends[layer] = low, high
        keep(layer, output)

    def of_activation(layer: Layer, inputs: tuple[Tensor, ...], _: Any) -> None:
        keep(layer, inputs[0])

    def of_attention(layer: Layer, _: Any, output: Tensor) -> None:
        keep(layer, output)

    def of_qkv(layer: Layer, _: Any, output: Tensor) -> None:
        flat = output.flatten(0, -2)
        total, count = sums.get(layer, (torch.zeros_like(flat[0], dtype=torch.float64), 0))
        sums[layer] = total + flat.double().sum(0), count + len(flat)

    hooks = [layer.register_forward_hook(of_norm) for layer in flow.layers if isinstance(layer, LayerNorm)]
    hooks += [layer.register_forward_hook(of_activation) for layer in flow.layers if isinstance(layer, GELU)]
    for core, qkv, _ in attentions(flow):
        hooks += [core.register_forward_hook(of_attention), qkv.register_forward_hook(of_qkv)]
    try:
        for images in batches:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = {layer: torch.cat(parts) for layer, parts in kept.items()}
    return Statistics(
        {layer.name: total / count for layer, (total, count) in sums.items()},
        {layer.name: x for layer, x in rows.items() if isinstance(layer, GELU)},
        {layer.name: x for layer, x in rows.items() if isinstance(layer, AttentionCore)},
        {layer.name: Seen(*ends[layer], rows[layer]) for layer in ends},
    )
