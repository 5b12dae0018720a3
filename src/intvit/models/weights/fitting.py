"""Whether a state dict is all that a model needs; where it is not, the nearest reason and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intvit.arguments import sides_text
from intvit.errors import IntVitError
from intvit.models.architectures import architectures
from intvit.models.base import ImageModel
from intvit.models.registry import MODELS
from intvit.models.weights.keys import prefix_of
from intvit.models.weights.resampling import square

State = Mapping[str, Tensor]


def is_classifier(name: str) -> bool:
    """Whether a parameter, by our name, belongs to the classifier, to one of the two, or to the head of every pixel."""
    return name.partition(".")[0] in ("head", "head_dist", "norms", "decoder")


def check(model: ImageModel, state: State, where: str) -> None:
    """Raise IntVitError unless `state`, by our names, has every parameter of the model and no other, finite reals."""
    parameters = dict(model.named_weights())
    missing = [key for key in parameters if key not in state]
    unexpected = [key for key in state if key not in parameters]
    unlike = [key for key, own in parameters.items() if key in state and state[key].shape != own.shape]
    problems = [
        *_listed("missing keys", missing),
        *_listed("unexpected keys", unexpected),
        *_listed(
            "wrong shape keys",
            [f"{key} {tuple(state[key].shape)} instead of {tuple(parameters[key].shape)}" for key in unlike],
        ),
    ]
    if problems:
        reasons = _reasons(model, state, missing, unexpected, unlike)
        raise IntVitError(f"{where} does not fit the model: {'; '.join(problems + reasons)}")
    for key in parameters:
        if not state[key].is_floating_point():
            raise IntVitError(f"{where}: {key} is {state[key].dtype}, of a quantizer; give the real numbers")
        if not bool(torch.isfinite(state[key]).all()):
            raise IntVitError(
                f"{where}: {key} is not finite: the training diverged, or the file is damaged; give another"
            )


def _reasons(
    model: ImageModel, state: State, missing: list[str], unexpected: list[str], unlike: list[str]
) -> list[str]:
    """What may be behind it, and what to say then; the nearest alone, but for what goes together."""
    names = [name for name, _ in model.named_weights()]
    if (prefix := prefix_of(state, names)) is not None:
        return [f"the model's names come after {prefix}: say model.weights_prefix={prefix}"]
    blocks = [key for key in (*missing, *unexpected, *unlike) if not is_classifier(key) and not _positional(key)]
    if blocks:
        given, own = _traits(state), _traits(dict(model.named_weights()))
        if given == own and not any(key in blocks for key in unlike):
            return ["they are of a model of this size: another code base's names, or a file that is not whole"]
        if fitting := _fitting_models(given):
            return [f"they would fit model={' or model='.join(fitting)}"]
        if any(key.startswith("patch_embed") for key in unlike):
            size = tuple(state[next(key for key in unlike if key.startswith("patch_embed"))].shape)
            return [f"another patch size, width or number of channels ({size}): patches are not resampled"]
        return ["they are of another architecture or size: check model"]
    if unexpected and not any(is_classifier(name) for name in names):
        return ["the model has no classifier: model.head=fresh leaves the file's out"]
    reasons = []
    if positional := [key for key in unlike if _positional(key)]:
        reasons.append(_image_size(model, state, positional[0]))
    heads = [key for key in unlike if is_classifier(key)]
    if heads:
        classes = state[heads[0]].shape[0]
        reasons.append(f"weights of {classes} classes: model.head=fresh makes a new classifier of {model.num_classes}")
    elif any(is_classifier(key) for key in missing):
        reasons.append("weights without a classifier: model.head=fresh makes one")
    return reasons or ["check model, data.num_classes and image size"]


def _image_size(model: ImageModel, state: State, key: str) -> str:
    """Of another image size: which one, as far as it can be said."""
    patch = model.get_parameter("patch_embed.proj.weight").shape[-1]
    leading = model.get_parameter(key).shape[-2] - model.image_size[0] * model.image_size[1] // patch**2
    grid = square(state[key].shape[-2] - leading) if key == "pos_embed" else None
    size = "another image size" if grid is None else f"image size {sides_text((patch * grid[0], patch * grid[1]))}"
    return f"weights for {size}: model.resample=true resamples them to {sides_text(model.image_size)}"


def _positional(key: str) -> bool:
    return key.rpartition(".")[2] in ("pos_embed", "relative_position_bias_table")


def _traits(state: State) -> dict[str, Any]:
    """What the names and shapes say of the size, in fields of the architecture that they are of."""
    return next((traits for architecture in architectures() if (traits := architecture.traits(state))), {})


def _fitting_models(traits: Mapping[str, Any]) -> list[str]:
    """Names of the registry whose size has these traits."""
    missing = object()
    return [
        name
        for name, size in MODELS.items()
        if traits and all(getattr(size, key, missing) == value for key, value in traits.items())
    ]


def _listed(problem: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    shown = ", ".join(keys[:5])
    return [f"{problem}: {shown}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")]
