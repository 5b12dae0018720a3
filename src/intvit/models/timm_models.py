"""Models of timm: the architecture of an instance, and what a name stands for, without its weights.

timm builds any of its models on the device `meta`, in no time and without memory: a name is what that instance is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from intvit.config.timm_photos import TimmPhotos, bare_name, import_timm, timm_photos
from intvit.errors import IntVitError
from intvit.models.architectures import Architecture, Size, architectures


@dataclass(frozen=True)
class TimmModel:
    """What a name of timm stands for. num_classes: 0 of an encoder, whose output are features."""

    size: Size
    photos: TimmPhotos
    num_classes: int


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture whose dataflow a model of timm has.

    Raises IntVitError for a model of another class, and naming every feature that ours do not compute.
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    architecture = next((known for known in architectures() if kind in known.TIMM), None)
    if architecture is None:
        known = ", ".join(name.rpartition(".")[2] for known in architectures() for name in known.TIMM)
        raise IntVitError(f"{type(model).__name__} is none of the architectures that can be quantized: {known} of timm")
    if missing := architecture.missing_features(model):
        raise IntVitError(f"{type(model).__name__} with {', '.join(missing)}: not among what intvit computes")
    return architecture


@functools.cache
def timm_model(name: str) -> TimmModel:
    """What a name of timm stands for, such as `vit_base_patch14_reg4_dinov2.lvd142m`; downloads nothing.

    Raises IntVitError for a name or a tag that timm does not have, for another architecture, and naming the features
    that ours do not compute.
    """
    photos = timm_photos(name)
    with torch.device("meta"):
        model: Any = import_timm().create_model(bare_name(name))
    try:
        size: Any = architecture_of(model).size_of(model)
    except IntVitError as error:
        raise IntVitError(f"model.name={name}: {error}") from error
    return TimmModel(replace(size, timm=bare_name(name)), photos, model.num_classes)  # with the tag of the weights


def timm_names() -> list[str]:
    """All names in the modules of timm that hold our architectures."""
    modules = dict.fromkeys(kind.split(".")[2] for known in architectures() for kind in known.TIMM)
    return [name for module in modules for name in import_timm().list_models(module=module)]
