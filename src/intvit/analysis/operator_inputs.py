"""What softmax, GELU and LayerNorm read in a calibrated model: integer inputs of every layer on real images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.analysis.operator_error import (
    Activations,
    Logits,
    OperatorError,
    Stream,
    gelu_error,
    layernorm_error,
    softmax_error,
)
from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES
from intvit.quant import QTensor, quant_layers
from intvit.quant.config import preset_options
from intvit.quant.layers import GELU, LayerNorm, SoftmaxMean

ROWS = 1000  # of each layer, spread evenly over the images


@torch.no_grad()
def layer_inputs(analyzed: AnalyzedModel, images: Tensor) -> dict[str, Logits | Activations | Stream]:
    """By layer, in the order of computation; images uint8 (N, C, H, W)."""
    inputs: dict[str, Logits | Activations | Stream] = {}

    def keep(layer: Any, arguments: tuple[Any, ...], _: Any) -> None:
        x: QTensor = arguments[0]
        if isinstance(layer, SoftmaxMean):
            logits = layer.logit_codes(*arguments)
            inputs[layer.name] = Logits(_rows(logits.values), logits.scale, logits.bits)  # type: ignore[arg-type]
        elif isinstance(layer, GELU):
            scale_out: Any = layer.output.scale()
            inputs[layer.name] = Activations(_rows(x.values), x.scale, scale_out, x.bits)  # type: ignore[arg-type]
        elif layer.output.factors is None:
            shift = None if x.factors is None else 3 - x.factors
            affine = layer.weight.detach().double(), layer.bias.detach().double()
            inputs[layer.name] = Stream(
                _rows(x.values), x.bits, *affine, layer.output.scale(), shift, layer.output.bits
            )

    seen = [layer for layer in quant_layers(analyzed.model) if isinstance(layer, SoftmaxMean | GELU | LayerNorm)]
    hooks = [layer.register_forward_hook(keep) for layer in seen]
    try:
        analyzed.model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def layer_table(inputs: dict[str, Logits | Activations | Stream], bits: int) -> list[dict[str, Any]]:
    """Errors of every family on every layer's inputs; bits: of the softmax weights."""
    rows = []
    for layer, x in inputs.items():
        for family, (operator, error) in _errors(x, bits).items():
            figures = {"largest": error.largest, "mean": error.mean, "divergence": error.divergence}
            rows.append({"layer": layer, "operator": operator, "family": family, **figures})
    return rows


def _errors(x: Logits | Activations | Stream, bits: int) -> dict[str, tuple[str, OperatorError]]:
    if isinstance(x, Logits):
        softmaxes = {f: (f, preset_options("softmax", f), "deferred") for f in SOFTMAX_FAMILIES}
        return {f: ("softmax", softmax_error(variant, x, bits)) for f, variant in softmaxes.items()}
    if isinstance(x, Activations):
        families = GELU_FAMILIES.standing_for(torch.nn.functional.gelu)
        return {f: ("gelu", gelu_error((f, preset_options("gelu", f)), x)) for f in families}
    return {f: ("layernorm", layernorm_error((f, False), x)) for f in LAYERNORM_METHODS}


def _rows(codes: Tensor) -> Tensor:
    rows = codes.reshape(-1, codes.shape[-1])
    return rows[:: max(1, len(rows) // ROWS)].clone()
