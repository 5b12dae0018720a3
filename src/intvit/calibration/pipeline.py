"""`calibrate`: the steps of calibration in their order, as `quant.calibration` chooses them.

First those that change parameters and leave the float function what it is (rotation, centering, heads, offsets,
equalization), then ranges, then rounding with the bias, or the bias alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from intvit.arguments import described, is_array, whole_number
from intvit.calibration.dataflow import Dataflow
from intvit.calibration.equalization import equalize
from intvit.calibration.heads import center, turn_heads
from intvit.calibration.offsets import shift_activations, shift_contexts, take_back
from intvit.calibration.ranges import correct_biases, finish_calibration, wants_correction
from intvit.calibration.rotation import rotate
from intvit.calibration.rounding import round_weights
from intvit.calibration.statistics import look
from intvit.calibration.unfinished import Unfinished
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.quant.config import CalibrationConfig
from intvit.quant.control import set_mode
from intvit.quant.observer import all_gather, all_reduce, broadcast, world_size
from intvit.quant.quantizer import Quantizer

CALIBRATION_BATCH = 64
_LOOKED_AT = 128
_ROUNDED_WITH = 16  # images at once, so that attention's products fit a cache

Model = TypeVar("Model", bound=nn.Module)
Images = Tensor | np.ndarray
Progress = Callable[[str, int, int], None]
"""Called with a step, what is done of it and its total."""


def _silent(step: str, done: int, total: int) -> None:
    """No progress is wanted."""


@torch.inference_mode(False)  # a validation of Lightning is in it, and reconstruction has gradients
@torch.no_grad()
def calibrate(
    model: Model,
    images: Images | Iterable[Images | Sequence[Images]],
    *,
    batch_size: int = CALIBRATION_BATCH,
    progress: Progress = _silent,
    resume: str | os.PathLike[str] | None = None,
) -> Model:
    """From float weights to integers, without training; returns the model, in eval and integer mode.

    What is done is chosen by the `quant.calibration` of the model's config: ranges from all images alone (`mse`,
    `minmax`), or everything that few bits need (`full`), which looks at the first `quant.calibration.images`.

    model: of this package, with float weights. images: uint8 (N, C, H, W), numpy or torch; or batches of such, alone or
    first of a tuple, as loaders give images with labels. A hundred or two of the training set suffice. batch_size: of
    the pieces that an array is split into; it changes the last bits of the ranges. progress: called with a step, what
    is done of it and its total. resume: a file that keeps what is done of `full`, stage by stage, until all is; one of
    this model, config and images is gone on from, to the same integers. A model that has been calibrated is calibrated
    anew, from its float function as it is.

    Raises IntVitError for images of another size or type, for none, and for a model that is not this package's.

    >>> model = calibrate(intvit.create_model("deit_t", image_size=32, num_classes=10, depth=1), images32)
    >>> model.integer_scores(torch.from_numpy(images32)).dtype
    torch.int32
    """
    if not isinstance(model, ImageModel):
        raise IntVitError(f"{type(model).__name__} is not a model of intvit; intvit.quantize(model) makes one")
    config, device = model.quant.calibration, next(model.parameters()).device
    model.eval()
    take_back(model)
    batches: Iterator[Tensor] = (batch.to(device) for batch in _batches(images, whole_number("batch_size", batch_size)))
    limits: dict[Quantizer, float] = {}
    if not config.ranges_alone:
        first = list(_until(batches, -(-config.images // world_size())))
        for batch in first:
            model.check_images(batch)  # before a step changes parameters
        shared = _shared(first, config.images)
        unfinished = Unfinished(None if resume is None else Path(resume), model, shared)
        if unfinished.stages is not None:
            round_weights(model, shared, config, progress, unfinished)
            return model
        limits = reparametrize(model, config, shared)
        batches = itertools.chain(first, batches)
    set_mode(model, "calibrate")
    kept: list[Tensor] = []
    for batch in batches:
        model(batch)
        if wants_correction(kept):
            kept.append(batch)
    finish_calibration(model)
    set_limits(limits)
    if config.by_stage:
        round_weights(model, shared, config, progress, unfinished)
    else:
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


@torch.no_grad()
def reparametrize(model: ImageModel, config: CalibrationConfig, batches: Sequence[Tensor]) -> dict[Quantizer, float]:
    """The steps before the ranges; the clip limits that belong to what they found, by quantizer.

    batches: uint8 (B, C, H, W). The float function stays what it is up to rounding of float32.
    """
    flow = Dataflow(model)
    limits: dict[Quantizer, float] = {}
    if config.rotation == "orthogonal":
        rotate(model, flow)
    if config.heads == "hadamard":
        turn_heads(flow)
    if config.centering or config.offsets or config.equalization != "none":
        seen = look(model, flow, batches[: _LOOKED_AT // _ROUNDED_WITH])
    if config.centering:
        center(flow, seen.means, seen.contexts)
    if config.offsets:
        limits |= shift_activations(flow, seen.inputs) | shift_contexts(flow, seen.contexts)
    if config.equalization == "search":
        limits |= equalize(flow, seen.outputs)
    for tensor in (*model.parameters(), *model.buffers()):
        broadcast(tensor)  # sums of floats differ between unlike processors: the first rank's
    return limits


def _until(batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Whole batches of at least so many images, as far as there are some."""
    while count > 0 and (batch := next(batches, None)) is not None:
        count -= len(batch)
        yield batch


def _shared(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    """The first images of all ranks, in the order of the loader, in small batches: every rank gets the same."""
    least = -int(all_reduce(torch.tensor(-sum(map(len, batches))), "max"))
    if not least:
        raise IntVitError("calibration saw no images; give it some, on every rank")
    images = torch.cat(list(batches))
    if world_size() > 1:
        images = all_gather(images[:least].flatten()).view(world_size(), least, *images.shape[1:]).transpose(0, 1)
        images = images.flatten(0, 1)
    return list(images[:count].split(_ROUNDED_WITH))


def set_limits(limits: dict[Quantizer, float]) -> None:
    """Clip ranges that were found from extremes where a step has chosen."""
    for quantizer, limit in limits.items():
        if not quantizer.statistic.any():  # all zeros, of which no clip is a share
            quantizer.statistic.fill_(limit)
        quantizer.clip.copy_(limit / quantizer.statistic)
        broadcast(quantizer.clip)  # the limit comes from sums of floats, too
