"""GPTQ (arXiv 2210.17323): rounding of weights by the error that it makes at the outputs, on codes of the quantized
layers before.

Stage by stage of the model: the products of a layer's input codes are summed up, exactly, as integers; then its columns
are rounded one after the other, and what is left of each goes into those behind it. The bias keeps the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from intvit.arithmetic import integer_matmul
from intvit.calibration.reconstruction import Targets, reconstruct
from intvit.calibration.unfinished import Unfinished
from intvit.models.base import ImageModel
from intvit.quant.config import CalibrationConfig
from intvit.quant.control import quant_layers, set_mode
from intvit.quant.features import norm_outputs
from intvit.quant.layers import Linear
from intvit.quant.layers.boundary import Scores
from intvit.quant.observer import broadcast, weight_clip
from intvit.quant.tensor import AnyTensor, QTensor

_ROWS = 2**16  # of codes: their sums are exact in float32, those of their products fit int32
_COLUMNS = 64  # rounded before what is left goes into all others

Stage = Callable[[AnyTensor], AnyTensor]


class Moments:
    """Sums over rows of codes, int8 (..., K): of themselves, (K,), and of their products, (K, K); float64, exact."""

    def __init__(self, codes: Tensor) -> None:
        flat = codes.flatten(0, -2)
        self.rows, size = len(flat), flat.shape[1]
        self.first = torch.zeros(size, dtype=torch.float64, device=flat.device)
        self.second = torch.zeros(size, size, dtype=torch.float64, device=flat.device)
        for part in flat.split(_ROWS):
            self.first += part.float().sum(0)
            self.second += integer_matmul(part.t().contiguous(), part)

    def mean(self) -> Tensor:
        return self.first / self.rows

    def covariance(self) -> Tensor:
        """About the mean, (K, K)."""
        mean = self.mean()
        return self.second / self.rows - torch.outer(mean, mean)


@torch.no_grad()
def round_weights(
    model: ImageModel,
    images: Sequence[Tensor],
    config: CalibrationConfig,
    progress: Callable[[str, int, int], None],
    unfinished: Unfinished,
) -> None:
    """Round the weights of every linear layer but the classifier, and correct the biases that are to be.

    With reconstruction, both of a stage are then learned together, before the next one.

    images: uint8 batches (B, C, H, W). progress: called with "rounding", the layers done and their number. unfinished:
    gets the model behind every stage; those that it had are run alone. The model has its ranges; it is left in integer
    mode.
    """
    for layer in quant_layers(model):
        layer.alone = True  # it derives its integers when it is called
    reals: list[AnyTensor] = list(images)
    codes: AnyTensor = torch.cat(list(images))
    total, done = len(_linears(model)), 0

    def rounded() -> None:
        nonlocal done
        done += 1
        progress("rounding", done, total)

    for index, stage in enumerate(model.stages()):
        if unfinished.stages is not None and index < unfinished.stages:
            means, reals = _float_pass(model, stage, reals)
            set_mode(model, "integer")
            codes, done = stage(codes), done + len(means)
            continue
        with norm_outputs(model) if config.reconstruction else nullcontext(list[Tensor]()) as norms:
            means, reals = _float_pass(model, stage, reals)
        set_mode(model, "integer")
        outputs = _round_stage(stage, means, codes, config, rounded)
        if config.reconstruction and means:
            targets = Targets.of([batch for batch in reals if isinstance(batch, Tensor)], norms)
            report = partial(progress, "rounding", done, total)
            reconstruct(model, stage, list(means), codes, targets, config.reconstruction, report)
            for layer in means:
                assert layer.rounding is not None
                for found in (layer.rounding, layer.correction):
                    broadcast(found)  # sums of floats differ between unlike processors: the first rank's
            outputs = stage(codes)
        codes = outputs
        unfinished.save(model, index + 1)
    unfinished.remove()
    for layer in quant_layers(model):
        layer.alone = False


def _round_stage(
    stage: Stage,
    means: dict[Linear, Tensor],
    codes: AnyTensor,
    config: CalibrationConfig,
    rounded: Callable[[], None],
) -> AnyTensor:
    """The stage's outputs on codes; every layer's weights are rounded when the codes have come to it."""

    def reached(layer: Linear, inputs: tuple[AnyTensor, ...]) -> None:
        x = layer.operand(inputs[0])
        assert isinstance(x, QTensor)
        _round_layer(layer, x, means[layer], config)
        layer.derive(*inputs)
        rounded()

    hooks = [layer.register_forward_pre_hook(reached) for layer in means]
    try:
        return stage(codes)
    finally:
        for hook in hooks:
            hook.remove()


def _linears(model: ImageModel) -> list[Linear]:
    """All but the classifier."""
    return [layer for layer in quant_layers(model) if isinstance(layer, Linear) and not isinstance(layer, Scores)]


def _float_pass(
    model: ImageModel, stage: Stage, batches: list[AnyTensor]
) -> tuple[dict[Linear, Tensor], list[AnyTensor]]:
    """Means (N,) of the float outputs of a stage's linear layers, in their order, and the stage's outputs."""
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
    return {layer: total / rows[layer] for layer, total in sums.items()}, outputs


def _round_layer(layer: Linear, x: QTensor, mean: Tensor, config: CalibrationConfig) -> None:
    moments, scale = Moments(x.values), x.scale
    covariance = moments.covariance()
    weight = layer.matrix().detach()
    if layer.search_clip:
        layer.clip.copy_(weight_clip(weight.float(), layer.bits, covariance.diagonal().float()))
    broadcast(layer.clip)
    if config.rounding == "gptq":
        parameters = layer.integer_parameters(scale)
        real = weight.double() / parameters.weight_scale.double()[:, None]
        codes = gptq(real, covariance, 2 ** (layer.bits - 1) - 1, config.damping)
        nearest = torch.round(weight / parameters.weight_scale[:, None])
        layer.rounding = (codes.to(nearest) - nearest).clamp_(-127, 127).to(torch.int8)
        broadcast(layer.rounding)  # unlike processors solve unlike: the first rank's counts, for the next codes, too
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
