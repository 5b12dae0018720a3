"""Skewed ranges: offsets of an activation function's input and output, by the error of its output.

GELU's output is at least -0.17 and reaches 5 and more: with codes of both signs alike half of them would be unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from intvit.calibration.dataflow import Dataflow
from intvit.calibration.folding import linear_readers, pieces
from intvit.calibration.heads import attentions
from intvit.models.base import ImageModel
from intvit.quant.control import forget_calibration, quant_layers
from intvit.quant.layers import GELU, LayerNorm, Linear
from intvit.quant.quantizer import Quantizer

_HIGH = torch.logspace(-0.92, 0, 20).tolist()  # shares of the largest and of the smallest value that a range may end at
_LOW = torch.logspace(-1, 0, 14).tolist()


@torch.no_grad()
def shift_activations(flow: Dataflow, inputs: Mapping[str, Tensor]) -> dict[Quantizer, float]:
    """Give every activation function that can have them its offsets; the limits that belong to them, by quantizer.

    inputs: real (rows, C) of each function, by name.
    """
    limits: dict[Quantizer, float] = {}
    for act in flow.layers:
        if not isinstance(act, GELU) or not act.shiftable:
            continue
        before = flow.writer(act)
        behind = linear_readers(flow, act)
        normed = all(isinstance(reader.layer, LayerNorm) for reader in flow.readers(act))  # which sees no offset
        plain = behind is not None and all(reader.joined == 1 and not reader.padded for reader in behind)
        if not isinstance(before, Linear) or before.bias is None or not (normed or plain):
            continue
        assert before.output is not None
        x = inputs[act.name]
        offset, limit = skewed_range(x.flatten(), before.output.bits, act.real)
        limits[before.output] = limit
        before.bias.sub_(offset)
        x = quantized(x, offset, limit, before.output.bits)
        weights = None if behind is None else sum(w.square().sum(0) for r in behind for w, _ in pieces(r))
        y = act.real(x)
        after, limits[act.output] = skewed_range(y, act.output.bits, weights=weights)
        for reader in behind or ():
            reader.layer.offset = torch.tensor(after, dtype=torch.float64, device=x.device)
        act.shift(offset, after)
    return limits


@torch.no_grad()
def shift_contexts(flow: Dataflow, contexts: Mapping[str, Tensor]) -> dict[Quantizer, float]:
    """Give the contexts of attention an offset, through the values, whose weights have the sum one; as above.

    contexts: real (rows, C) of each attention, by name, as the values are now.
    """
    limits: dict[Quantizer, float] = {}
    for core, qkv, readers in attentions(flow):
        if qkv.bias is None or readers is None or any(reader.joined > 1 or reader.padded for reader in readers):
            continue
        weights = sum(w.square().sum(0) for reader in readers for w, _ in pieces(reader))
        offset, limits[core.context] = skewed_range(contexts[core.name], core.context.bits, weights=weights)
        qkv.bias[2 * len(qkv.bias) // 3 :] -= offset
        for reader in readers:
            reader.layer.offset = torch.tensor(offset, dtype=torch.float64, device=qkv.bias.device)
    return limits


@torch.no_grad()
def take_back(model: ImageModel) -> None:
    """Forget an earlier calibration of the model, or of the run that its weights are from; the float function stays:
    offsets go back into the biases that they were taken out of.
    """
    layers = list(quant_layers(model))
    linears = [layer for layer in layers if isinstance(layer, Linear)]
    activations = [layer for layer in layers if isinstance(layer, GELU) and layer.before is not None]
    if activations or any(layer.offset is not None for layer in linears):
        flow = Dataflow(model)
        for act in activations:
            before = flow.writer(act)
            assert isinstance(before, Linear)
            assert before.bias is not None
            assert act.before is not None
            before.bias.add_(act.before)
        for _, qkv, readers in attentions(flow):
            offset = readers[0].layer.offset if readers else None
            if offset is not None:
                assert qkv.bias is not None
                assert isinstance(offset, Tensor)
                qkv.bias[2 * len(qkv.bias) // 3 :] += offset
    forget_calibration(model)


def skewed_range(
    x: Tensor,
    bits: int,
    function: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | int | None = None,
) -> tuple[float, float]:
    """(offset, limit) with the smallest squared error of rounding x - offset to `bits` bits.

    function: the error is that of function(x). weights: of the error of each entry of the last axis. The codes
    -2^(bits-1) and 2^(bits-1) - 1 = limit / scale are the ends of the range.
    """
    target = x if function is None else function(x)
    largest, smallest = float(x.max()), min(float(x.min()), 0.0)

    def form(low: float, high: float) -> tuple[float, float]:
        scale = max(high - low, 1e-6) / (2**bits - 1)
        return low + scale * 2 ** (bits - 1), scale * (2 ** (bits - 1) - 1)

    def error(low: float, high: float) -> float:
        rounded = quantized(x, *form(low, high), bits)
        difference = (rounded if function is None else function(rounded)).sub_(target).square_()
        return float((difference if weights is None else difference * weights).mean())

    low = high = 1.0
    for _ in range(2):
        high = min(_HIGH, key=lambda share: error(smallest * low, largest * share))
        low = min(_LOW, key=lambda share: error(smallest * share, largest * high))
    return form(smallest * low, largest * high)


def quantized(x: Tensor, offset: float, limit: float, bits: int) -> Tensor:
    """x after rounding x - offset to codes of `bits` bits, of which 2^(bits-1) - 1 stands for the limit."""
    steps = 2 ** (bits - 1) - 1
    scale = limit / steps
    return ((x - offset) / scale).round_().clamp_(-steps - 1, steps).mul_(scale).add_(offset)
