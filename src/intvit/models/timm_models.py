"""Models of timm: the architecture of an instance, and what a name stands for, without its weights.

timm builds any of its models on the device `meta`, in no time and without memory: a name is what that instance is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from intvit.errors import IntVitError
from intvit.models.architectures import Architecture, Size, architectures

PREFIX = "timm/"  # may stand before a name of timm's


@dataclass(frozen=True)
class TimmModel:
    """What a name of timm stands for: the size, and how its weights want photos.

    image_size: height and width in pixels. mean, std: per channel, of pixels scaled to 0..1. crop_pct: share of the
    resized shorter side that evaluation keeps. interpolation: of that resize. num_classes: 0 of an encoder.
    """

    size: Size
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
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


def timm_model_exists(name: str) -> bool:
    """Whether timm has a model of this name, with or without a tag of pretrained weights."""
    return bool(import_timm().is_model(bare_name(name)))


@functools.cache
def timm_model(name: str) -> TimmModel:
    """What a name of timm stands for, such as `vit_base_patch14_reg4_dinov2.lvd142m`; downloads nothing.

    Raises IntVitError for a tag that timm does not have, for another architecture, and naming the features that ours
    do not compute.
    """
    with torch.device("meta"):
        try:
            model: Any = import_timm().create_model(bare_name(name))
        except RuntimeError as error:
            raise IntVitError(f"model.name={name}: timm does not build it: {error}") from error
    try:
        size: Any = architecture_of(model).size_of(model)
    except IntVitError as error:
        raise IntVitError(f"model.name={name}: {error}") from error
    given = model.pretrained_cfg
    return TimmModel(
        size=replace(size, timm=bare_name(name)),  # with the tag of the weights
        image_size=tuple(model.patch_embed.img_size),
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
        crop_pct=given["crop_pct"],
        interpolation=given["interpolation"],
        num_classes=model.num_classes,
    )


def timm_names() -> list[str]:
    """All names in the modules of timm that hold our architectures."""
    modules = dict.fromkeys(kind.split(".")[2] for known in architectures() for kind in known.TIMM)
    return [name for module in modules for name in import_timm().list_models(module=module)]


def bare_name(name: str) -> str:
    """The name without `timm/` before it."""
    return name.removeprefix(PREFIX)


def import_timm() -> Any:
    """The module; it is slow to import, and needs a torchvision that fits."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    import timm

    return timm
