"""Float weights for a model: from a file, a run folder or a state dict, in the layouts that docs/weights.md lists.

reading: which file and which entry of it. unpickling: PyTorch's files without running them. keys: wrappers' prefixes,
buffers. transformers_names, resampling: what architectures share. fitting: whether all of it fits, and why not.
What is particular to an architecture stands in its own folder: `ImageModel.adapt` and `ImageModel.resample`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.arguments import sides_text
from intvit.config.environment import is_first_rank
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.registry import size_named
from intvit.models.weights import keys, runs
from intvit.models.weights.fitting import check, is_classifier
from intvit.models.weights.reading import Found, read
from intvit.quant.control import forget_calibration

__all__ = ["is_classifier", "load_pretrained", "load_weights"]

_LOG = logging.getLogger(__name__)  # a warning reaches standard error where nobody has set up logging


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    key: str = "auto",
    prefix: str | None = None,
    head: str = "keep",
    resample: bool = False,
) -> None:
    """Load every parameter of the model, in place, as float32; ranges of quantizers are no part of weights.

    source: a file (.safetensors, .pth and what else torch.save wrote), the folder of a run of train.py or of a model
    that transformers saved, or a state dict. Files are read without running anything that they hold.
    key: the entry of a training checkpoint; `auto` takes averaged weights (state_dict_ema, model_ema) where there are
    any, then state_dict and model; `ema` insists on averaged ones. prefix: what stands before the names of the model's
    parameters, where it does not stand before all names of the file; keys without it are left out.
    head: `keep`, or `fresh` for a classifier as the model has it now, whatever the file holds. resample: bring position
    embeddings and tables of relative positions to the model's image size.

    What was decided (averaged weights, what was left out, other number types) is logged, a line for each, and stands in
    the model's provenance. Raises IntVitError for a file that is not readable and for parameters that are missing,
    unexpected or of another shape, with the nearest reason; the model is then as it was.
    """
    assert isinstance(model, ImageModel)
    if head not in ("keep", "fresh"):
        raise IntVitError(f"model.head={head}: unknown, expected one of keep, fresh")
    if isinstance(source, Mapping):
        found = Found(dict(source), None, own=keys.has_own_ranges(source))
    else:
        found = read(Path(source), key)
    if found.config is not None:
        runs.compare(found.config, model, found.where, fresh_head=head == "fresh", resample=resample)
    state, offsets, notes = _state(model, found, prefix, head, resample)
    check(model, state, found.where)
    forget_calibration(model)
    model.load_state_dict(offsets, strict=False)
    with torch.no_grad():
        for name, parameter in model.named_weights():
            if name in state:
                parameter.copy_(state[name])
    model.trained_classes = [] if head == "fresh" else list(found.classes)
    for note in notes:
        if is_first_rank():
            _LOG.warning("%s: %s", found.where, note)
    if found.path is not None:
        model.provenance["weights"] = _provenance(found.path, found, notes)


def _state(
    model: ImageModel, found: Found, prefix: str | None, head: str, resample: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Parameters to be loaded by our names, offsets of a run's calibration, and what was decided on the way."""
    names = [name for name, _ in model.named_weights()]
    state, left = keys.without_buffers(found.state, own=found.own)
    notes = [*found.notes, *left]
    state, left = keys.without_prefix(state, prefix, names, found.where)
    notes += left
    state, offsets = keys.split_offsets(state) if found.own else (state, {})
    others = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()} - {"float32"})
    if others:
        notes.append(f"{', '.join(others)} became float32")
    state = model.adapt({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    if head == "fresh":
        dropped = [name for name in state if is_classifier(name)]
        state = {name: value for name, value in state.items() if not is_classifier(name)}
        state |= {name: value.detach() for name, value in model.named_weights() if is_classifier(name)}
        if dropped:
            notes.append("left out the classifier; a new one takes its place (model.head=fresh)")
    brought = _resampled if resample else _as_they_are
    state, notes = brought(model, state, found, notes)
    return state, offsets, notes


def _resampled(
    model: ImageModel, state: dict[str, Tensor], found: Found, notes: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    resampled = model.resample(state, None if found.config is None else runs.image_size(found.config))
    changed = [name for name in resampled if resampled[name] is not state[name]]
    if changed:
        shapes = f"{tuple(state[changed[0]].shape)} to {tuple(resampled[changed[0]].shape)}"
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        notes = [*notes, f"resampled {changed[0]} from {shapes}{more}"]
    return resampled, notes


def _as_they_are(
    model: ImageModel, state: dict[str, Tensor], found: Found, notes: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Without resampling; noted where a file may be of square images with as many tokens as the model's others have."""
    if found.path is not None and found.config is None:
        square = model.resample(state, None)
        doubtful = [
            name for name in square if square[name] is not state[name] and square[name].shape == state[name].shape
        ]
        if doubtful:
            size = sides_text(model.image_size)
            notes = [
                *notes,
                f"{doubtful[0]} is taken for {size} pixels; if it is of square images: model.resample=true",
            ]
    return state, notes


def _provenance(path: Path, found: Found, notes: list[str]) -> dict[str, Any]:
    """Of the exported program: no folders of this machine."""
    origin: dict[str, Any] = {"file": path.name, "notes": notes}
    return origin if found.config is None else {**origin, "run": runs.name_and_experiment(path, found.config)}


def load_pretrained(model: nn.Module, name: str, *, head: str = "keep", resample: bool = False) -> None:
    """Download timm's ImageNet weights for `name` and load them; head, resample: as for `load_weights`."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    import timm

    name = size_named(name).timm
    try:
        source = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub raises many kinds; all of them mean: not available
        raise IntVitError(
            f"model.pretrained=true: cannot get {name} ({type(error).__name__}); "
            "give a file with model.weights=FILE instead"
        ) from error
    load_weights(model, source.state_dict(), head=head, resample=resample)
