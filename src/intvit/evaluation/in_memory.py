"""Accuracy and mismatches of a model or a program on images in memory, or on the batches of any loader."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intvit.arguments import as_array, as_labels, described, is_array, whole_number
from intvit.data.masks import VOID, MaskTarget
from intvit.errors import IntVitError
from intvit.evaluation.engine import Executor, tally
from intvit.evaluation.executors import float_executor, integer_executor
from intvit.evaluation.report import figures
from intvit.export.record import record
from intvit.program import Program
from intvit.quant import set_mode
from intvit.runtime import as_program, check_images, load_runtime
from intvit.tasks import task_of

Array = np.ndarray | Tensor


def evaluate(
    model: nn.Module | Program | str | os.PathLike[str],
    images: Array | Iterable[tuple[Array, Array]],
    labels: Array | Sequence[int] | None = None,
    *,
    runtimes: Sequence[str] = ("torch", "numpy"),
    batch_size: int = 64,
) -> dict[str, Any]:
    """What the task measures, in percent, and for every runtime the images, or pixels, whose integers differ.

    model: a calibrated model, which is then run in float and in integers, and its program on the runtimes; or a program
    or the folder of one, on the runtimes alone, whose outputs are compared with the first one's. images, labels: uint8
    (N, C, H, W) and integers (N,), of a model that segments masks (N, H, W), -1 where none counts; or instead of both a
    loader, which yields such pairs, such as `intvit.data.loading.validation_loader` of any data set. runtimes: names of
    `intvit.runtime.RUNTIMES`.

    Returns what evaluation.json holds: `images`, `float` and `qat` (of a model: in integers) with `top1` and `top5`,
    and `runtimes` by name with `top1`, `top5`, `mismatches` and `images_per_second`; of a model that segments `miou`,
    `pixel_accuracy` and `agreement` with its float labels in place of the first two, and its `classes`. A model is left
    in eval and integer mode.

    Raises IntVitError for no image at all, images of another type or size, labels that are no integers, not one for
    each image or outside the classes, a batch size below 1, and an unknown runtime.

    >>> figures = evaluate(model, images, labels, runtimes=["numpy"])
    >>> figures["images"], figures["runtimes"]["numpy"]["mismatches"]
    (8, 0)
    """
    if isinstance(runtimes, str) or not isinstance(runtimes, Sequence) or not runtimes:
        raise IntVitError(f"runtimes={runtimes!r}: expected a list with at least one name, such as ['numpy']")
    whole_number("batch_size", batch_size)
    executors: dict[str, Executor] = {}
    if isinstance(model, nn.Module):
        set_mode(model.eval(), "integer")
        program = record(model)
        executors = {"float": float_executor(model), "qat": integer_executor(model)}
    else:
        program = as_program(model)
    executors |= {name: load_runtime(program, name) for name in runtimes}
    reference = "qat" if "qat" in executors else runtimes[0]
    task, agreement_with = task_of(program), None
    if task.compares_float and "float" in executors:
        agreement_with = "float"
    tallies = tally(
        _batches(program, images, labels, batch_size),
        executors,
        task=task,
        classes=program.num_classes,
        reference=reference,
        compared=runtimes,
        agreement_with=agreement_with,
    )
    return figures(tallies, list(runtimes), task, agreement_with)


def _batches(program: Program, images: Any, labels: Any, size: int) -> Iterator[tuple[np.ndarray, Any]]:
    if not is_array(images):
        if isinstance(images, str) or not isinstance(images, Iterable):
            raise IntVitError(f"images are {described(images)}; expected uint8 (N, C, H, W), or a loader of pairs")
        if labels is not None:
            raise IntVitError("labels beside a loader, which yields its own: give images as one array, or no labels")
        for index, batch in enumerate(images):
            if not isinstance(batch, Sequence) or len(batch) != 2:
                raise IntVitError(f"batch {index} is {described(batch)}; expected a pair (images, labels)")
            yield _pair(program, *batch)
        return
    pixels, classes = _pair(program, images, labels)
    yield from ((pixels[at : at + size], classes[at : at + size]) for at in range(0, len(pixels), size))


def _pair(program: Program, images: Any, labels: Any) -> tuple[np.ndarray, Any]:
    pixels = as_array("images", images) if is_array(images) else images
    check_images(program, pixels)
    if program.form == "scores":
        return pixels, as_labels(labels, len(pixels))
    return pixels, _masks(program, labels, len(pixels))


def _masks(program: Program, labels: Any, count: int) -> list[MaskTarget]:
    """Masks as a loader of ours gives them, or of an array (N, H, W) of the program's size, -1 where none counts."""
    if isinstance(labels, list) and all(isinstance(each, MaskTarget) for each in labels) and len(labels) == count:
        return labels
    height, width = program.values[program.input].shape[1:]
    if not is_array(labels):
        raise IntVitError(f"labels are {described(labels)}; expected masks, integers ({count}, {height}, {width})")
    masks = as_array("labels", labels)
    if masks.dtype.kind not in "iu" or masks.shape != (count, height, width):
        raise IntVitError(
            f"labels are {masks.dtype} {masks.shape}; expected masks, integers ({count}, {height}, {width})"
        )
    if masks.min() < VOID or masks.max() >= program.num_classes:
        wrong = int(masks.min() if masks.min() < VOID else masks.max())
        raise IntVitError(f"label {wrong} in the masks; expected 0..{program.num_classes - 1}, or -1 for none")
    places = torch.arange(height), torch.arange(width)
    return [MaskTarget(torch.from_numpy(mask.astype(np.int16)), *places) for mask in masks]
