"""From float to integers without training: ranges from calibration images, and the bias correction behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from intvit.arguments import described, is_array, whole_number
from intvit.errors import IntVitError
from intvit.quant.control import quant_layers, set_mode
from intvit.quant.layers import Linear
from intvit.quant.observer import all_reduce, broadcast, world_size
from intvit.quant.quantizer import Collected, Quantizer

CALIBRATION_BATCH = 64
CORRECTION_IMAGES = 128  # means need fewer images than ranges


def finish_calibration(model: nn.Module) -> None:
    """Fix every range and weight clip from the batches seen in mode `calibrate`.

    Raises IntVitError naming the first quantizer that saw nothing.
    """
    for layer in quant_layers(model):
        if isinstance(layer, Quantizer | Linear):
            layer.finish()
            # Clip limits come from sums of floats, which differ between unlike processors: the first rank's count.
            for buffer in layer.buffers(recurse=False):
                broadcast(buffer)


Model = TypeVar("Model", bound=nn.Module)
Images = Tensor | np.ndarray


@torch.no_grad()
def calibrate(
    model: Model, images: Images | Iterable[Images | Sequence[Images]], *, batch_size: int = CALIBRATION_BATCH
) -> Model:
    """Find the ranges from all images, correct the biases on the first; returns the model, in eval and integer mode.

    model: of this package, with float weights. images: uint8 (N, C, H, W), numpy or torch; or batches of such, alone or
    first of a tuple, as loaders give images with labels. A hundred or two of the training set suffice. batch_size: of
    the pieces that an array is split into; it changes the last bits of the ranges.

    Raises IntVitError for images of another size or type, for none, and for a model that is not this package's.

    >>> model = calibrate(intvit.create_model("deit_t", image_size=32, num_classes=10, depth=1), images32)
    >>> model.integer_scores(torch.from_numpy(images32)).dtype
    torch.int32
    """
    if not isinstance(model, nn.Module) or next(quant_layers(model), None) is None:
        raise IntVitError(f"{type(model).__name__} is not a model of intvit; intvit.quantize(model) makes one")
    device = next(model.parameters()).device
    model.eval()
    set_mode(model, "calibrate")
    kept: list[Tensor] = []
    for batch in _batches(images, whole_number("batch_size", batch_size)):
        batch = batch.to(device)
        model(batch)
        if wants_correction(kept):
            kept.append(batch)
    finish_calibration(model)
    # Every rank corrects with as many batches as the rank that has fewest.
    count = -int(all_reduce(torch.tensor(-len(kept)), "max"))
    correct_biases(model, kept[:count])
    return model


def _batches(images: Images | Iterable[Images | Sequence[Images]], size: int) -> Iterator[Tensor]:
    if is_array(images):
        yield from _tensor(images).split(size)
        return
    if isinstance(images, str) or not isinstance(images, Iterable):
        raise IntVitError(f"images are {described(images)}; expected uint8 (N, C, H, W), or batches of such")
    for index, batch in enumerate(images):
        first = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
        if not is_array(first):
            raise IntVitError(
                f"batch {index} is {described(first)}; expected uint8 (B, C, H, W), alone or first of a tuple"
            )
        yield _tensor(first)


def _tensor(images: Any) -> Tensor:
    if not images.ndim:
        raise IntVitError(f"images are {described(images)}; expected uint8 (N, C, H, W)")
    if isinstance(images, Tensor):
        return images
    try:
        return torch.from_numpy(np.ascontiguousarray(images))
    except TypeError:  # a type that torch does not have
        raise IntVitError(f"images are {described(images)}; expected uint8 (N, C, H, W)") from None


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
