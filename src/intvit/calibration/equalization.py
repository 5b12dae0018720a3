"""Scale and offset per channel of LayerNorm outputs, in gamma, beta and the layers behind (SmoothQuant, arXiv
2211.10438; RepQ-ViT, arXiv 2212.08254), chosen with the clip limit by the error of those layers' outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.calibration.dataflow import Dataflow, Reader
from intvit.calibration.folding import fold, linear_readers, pieces, takes_offsets
from intvit.quant.layers import LayerNorm, Linear
from intvit.quant.layers.boundary import Scores
from intvit.quant.observer import weight_clip
from intvit.quant.quantizer import Quantizer

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a channel's largest value, in its scale
_CLIPS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.32, 0.25)


@dataclass(frozen=True)
class Seen:
    """Outputs of a norm: lowest and highest of each channel (C,), and some rows (rows, C)."""

    low: Tensor
    high: Tensor
    rows: Tensor


@torch.no_grad()
def equalize(flow: Dataflow, outputs: Mapping[str, Seen]) -> dict[Quantizer, float]:
    """Give the channels of every norm their scales and offsets; the limits that belong to them, by quantizer.

    Not those that the classifier reads: calibration images may hold a few classes alone, whose extremes are not those
    of all. Nor those that are all zeros.
    """
    limits: dict[Quantizer, float] = {}
    for norm in flow.layers:
        readers = linear_readers(flow, norm)
        if not isinstance(norm, LayerNorm) or readers is None or norm.output.bits > 8:
            continue
        seen = outputs[norm.name]
        if any(isinstance(reader.layer, Scores) for reader in readers) or not (seen.low.any() or seen.high.any()):
            continue
        factor, offset, limits[norm.output] = _searched(norm, readers, seen)
        fold(readers, factor=factor, offset=offset)
        norm.bias.copy_((norm.bias if offset is None else norm.bias - offset) / factor)
        norm.weight.div_(factor)
    return limits


def _searched(norm: LayerNorm, readers: list[Reader], seen: Seen) -> tuple[Tensor, Tensor | None, float]:
    """Factor and offset (C,), and the clip limit of (output - offset) / factor.

    With offsets, the middle of a channel lies half a step below code 0, so that all 2^bits codes are used alike.
    """
    center = (seen.high + seen.low) / 2 if takes_offsets(readers) else torch.zeros_like(seen.low)
    half = 0.5 if takes_offsets(readers) else 0.0
    largest = torch.maximum(seen.high - center, center - seen.low)
    parts = [(weight, reader.layer) for reader in readers for weight, _ in pieces(reader)]
    weight = torch.cat([part for part, _ in parts])
    layer = parts[0][1]
    assert isinstance(layer, Linear)
    steps, rows = 2 ** (norm.output.bits - 1) - 1, seen.rows - center
    target = rows @ weight.t()
    best, found = torch.inf, (torch.ones_like(largest), 1.0)
    for exponent in _EXPONENTS:
        factor = largest.clamp(min=1e-3 * float(largest.max())) ** exponent
        rounded = _rounded(weight * factor, layer.bits)
        even = rows / factor
        limit = float((largest / factor).max())
        for clip in _CLIPS:
            scale = limit * clip / (steps + half)
            codes = (even / scale - half).round_().clamp_(-steps - 1, steps).add_(half).mul_(scale)
            error = float(F.linear(codes, rounded).sub_(target).square_().mean())
            if error < best:
                best, found = error, (factor, scale)
    factor, scale = found
    offset = center + half * scale * factor if half else None
    return factor, offset, scale * steps


def _rounded(weight: Tensor, bits: int) -> Tensor:
    """The weight (N, C) at its nearest codes."""
    steps = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / steps
    if bits < 8:
        scale = scale * weight_clip(weight, bits)[:, None]
    return (weight / scale).round_().clamp_(-steps, steps).mul_(scale)
