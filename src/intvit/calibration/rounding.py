"""GPTQ (arXiv 2210.17323): rounding of weights by the error that it makes at the outputs, on codes of the quantized
layers before.

Stage by stage of the model: the products of a layer's input codes are summed up, exactly, as integers; then its columns
are rounded one after the other, and what is left of each goes into those behind it. The bias keeps the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from intvit.calibration.reconstruction import Targets, reconstruct
from intvit.models.base import ImageModel
from intvit.quant.config import CalibrationConfig
from intvit.quant.control import quant_layers, set_mode
from intvit.quant.features import norm_outputs
from intvit.quant.layer import Layer
from intvit.quant.layers import Linear
from intvit.quant.layers.boundary import Scores
from intvit.quant.observer import broadcast, weight_clip
from intvit.quant.tensor import AnyTensor, QTensor

_ROWS = 1024  # of codes: their products summed stay below 2^24, and exact in float32
_COLUMNS = 64  # rounded before what is left goes into all others

Stage = Callable[[AnyTensor], AnyTensor]


class Moments:
    """Sums over rows of codes: of themselves, (K,), and of their products, (K, K); float64, exact."""

    def __init__(self) -> None:
        self.rows = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def add(self, codes: Tensor) -> None:
        """codes: int8 (..., K)."""
        flat = codes.flatten(0, -2)
        for part in flat.float().split(_ROWS):
            first, second = part.sum(0).double(), (part.t() @ part).double()
            self.first = first if self.first is None else self.first.add_(first)
            self.second = second if self.second is None else self.second.add_(second)
        self.rows += len(flat)

    def mean(self) -> Tensor:
        assert self.first is not None
        return self.first / self.rows

    def covariance(self) -> Tensor:
        """About the mean, (K, K)."""
        assert self.second is not None
        mean = self.mean()
        return self.second / self.rows - torch.outer(mean, mean)


@dataclass
class _Found(Exception):  # no error: it ends a forward pass that has reached its layer
    codes: QTensor


@torch.no_grad()
def round_weights(
    model: ImageModel,
    images: Sequence[Tensor],
    config: CalibrationConfig,
    progress: Callable[[str, int, int], None],
) -> None:
    """Round the weights of every linear layer but the classifier, and correct the biases that are to be.

    Then, with steps of reconstruction, learn both together, stage by stage.

    images: uint8 batches (B, C, H, W). progress: called with "rounding", the layers done and their number. The model
    has its ranges; it is left in integer mode.
    """
    for layer in quant_layers(model):
        layer.alone = True  # it derives its integers when it is called
    reals: list[AnyTensor] = list(images)
    codes: list[AnyTensor] = list(images)
    total, done = len(_linears(model)), 0
    for stage in model.stages():
        with norm_outputs(model) if config.reconstruction else nullcontext(list[Tensor]()) as norms:
            linears, means, reals = _float_pass(model, stage, reals)
        set_mode(model, "integer")
        for layer in linears:
            _round_layer(layer, _input_moments(stage, layer, codes), means[layer], config.damping)
            done += 1
            progress("rounding", done, total)
        if config.reconstruction and linears:
            outputs = [batch for batch in reals if isinstance(batch, Tensor)]
            report = partial(progress, "rounding", done, total)
            reconstruct(model, stage, linears, codes, Targets.of(outputs, norms), config.reconstruction, report)
            for layer in linears:
                assert layer.rounding is not None
                for found in (layer.rounding, layer.correction):
                    broadcast(found)  # sums of floats differ between unlike processors: the first rank's
        codes = [stage(batch) for batch in codes]
    for layer in quant_layers(model):
        layer.alone = False


def _linears(model: ImageModel) -> list[Linear]:
    """All but the classifier."""
    return [layer for layer in quant_layers(model) if isinstance(layer, Linear) and not isinstance(layer, Scores)]


def _float_pass(
    model: ImageModel, stage: Stage, batches: list[AnyTensor]
) -> tuple[list[Linear], dict[Linear, Tensor], list[AnyTensor]]:
    """The linear layers of a stage in order, the means of their float outputs (N,), and the stage's outputs."""
    set_mode(model, "float")
    sums: dict[Linear, Tensor] = {}
    rows: dict[Linear, int] = {}

    def add(layer: Linear, _: tuple[AnyTensor, ...], output: Tensor) -> None:
        flat = output.flatten(0, -2).double()
        sums[layer] = sums.get(layer, torch.zeros_like(flat[0])) + flat.sum(0)
        rows[layer] = rows.get(layer, 0) + len(flat)

    # Its own accumulators, before its quantizer: what a float layer gives is the same.
    hooks = [layer.register_forward_hook(add) for layer in _linears(model)]
    try:
        outputs = [stage(batch) for batch in batches]
    finally:
        for hook in hooks:
            hook.remove()
    return list(sums), {layer: total / rows[layer] for layer, total in sums.items()}, outputs


def _input_moments(stage: Stage, layer: Linear, batches: list[AnyTensor]) -> tuple[Moments, Tensor]:
    """What a layer reads in integers, and the scale of it; layers behind it are not run."""

    def stop(_: Layer, inputs: tuple[AnyTensor, ...]) -> None:
        x = layer.operand(inputs[0])
        assert isinstance(x, QTensor)
        raise _Found(x)

    moments, scale = Moments(), None
    hook = layer.register_forward_pre_hook(stop)
    try:
        for batch in batches:
            try:
                stage(batch)
            except _Found as found:
                moments.add(found.codes.values)
                scale = found.codes.scale
    finally:
        hook.remove()
    assert scale is not None
    return moments, scale


def _round_layer(layer: Linear, seen: tuple[Moments, Tensor], mean: Tensor, damping: float) -> None:
    moments, scale = seen
    covariance = moments.covariance()
    weight = layer.matrix().detach()
    if layer.search_clip:
        layer.clip.copy_(weight_clip(weight.float(), layer.bits, covariance.diagonal().float()))
    parameters = layer.integer_parameters(scale)
    steps = 2 ** (layer.bits - 1) - 1
    codes = gptq(weight.double() / parameters.weight_scale.double()[:, None], covariance, steps, damping)
    nearest = torch.round(weight / parameters.weight_scale[:, None])
    layer.rounding = (codes.to(nearest) - nearest).clamp_(-127, 127).to(torch.int8)
    # Unlike processors solve unlike: the first rank's counts, before the next layer's codes are made with it.
    for buffer in (layer.clip, layer.rounding):
        broadcast(buffer)
    if layer.corrected:
        rounded = layer.integer_parameters(scale)
        given = rounded.weight.double() @ moments.mean() * rounded.scale
        if layer.bias is not None:
            given += layer.bias.double()
        if layer.offset is not None:
            given += rounded.weight.sum(1, dtype=torch.int64) * layer.offset * rounded.weight_scale.double()
        layer.correction.copy_(mean - given)
        broadcast(layer.correction)


def gptq(weight: Tensor, covariance: Tensor, steps: int, damping: float) -> Tensor:
    """Integers -steps .. steps near `weight` (N, K) with a small error at outputs, float64.

    covariance: of the inputs, (K, K); a share `damping` of its mean diagonal is added to it. Columns of large diagonal
    come first.
    """
    size = len(covariance)
    order = covariance.diagonal().argsort(descending=True, stable=True)
    damped = covariance[order][:, order]
    damped = damped + torch.eye(size, dtype=damped.dtype, device=damped.device) * (
        damping * damped.diagonal().mean().clamp(min=1e-12)
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    # In float32 from here on: what is left of a column is no better known, and most of the time goes into it.
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    left = weight[:, order].t().float().contiguous()  # a column of the weight is a row
    codes, diagonal = torch.empty_like(left), upper.diagonal().tolist()
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        errors = torch.empty_like(left[start:stop])
        for column in range(start, stop):
            codes[column] = left[column].round().clamp_(-steps, steps)
            errors[column - start] = (left[column] - codes[column]).div_(diagonal[column])
            left[column:stop].addr_(upper[column, column:stop], errors[column - start], alpha=-1)
        left[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1)
    result = torch.empty_like(codes)
    result[order] = codes
    return result.t()
