"""The models by name, ours and timm's, and how to build one."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from intvit.arguments import both_sides, described, unknown, whole_number
from intvit.config.timm_photos import timm_has
from intvit.errors import IntVitError
from intvit.models.architectures import Size, architectures
from intvit.models.timm_models import timm_model
from intvit.quant import QuantConfig


class Models(Mapping[str, Size]):
    """Every size of every architecture, by name; their files are imported when it is first asked."""

    @functools.cached_property
    def _sizes(self) -> dict[str, Size]:
        found = {name: size for architecture in architectures() for name, size in architecture.SIZES.items()}
        return dict(sorted(found.items()))

    def __getitem__(self, name: str) -> Size:
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


MODELS = Models()


def create_model(
    name: str,
    *,
    image_size: int | tuple[int, int],
    patch_size: int | None,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    quant: QuantConfig,
    drop_path: float = 0.0,
    dense: str | None = None,
    **size: Any,
) -> nn.Module:
    """Build `name`, one of MODELS or timm's name of another, with random weights, in float mode.

    patch_size None takes the model's own. `size` overrides fields of the model's size, such as width, depth or heads
    (reduced models of tests). dense: a head for every pixel, linear or multi, see `intvit.models.dense`. Raises
    IntVitError for an unknown name or field, a size that makes no sense, and an image size that the patch does not
    divide.
    """
    usual: Any = size_named(name)
    fields = {field.name: field for field in dataclasses.fields(usual) if field.name != "timm"}
    kinds = typing.get_type_hints(type(usual))
    for key, value in size.items():
        if key not in fields:
            options = ["image_size", "patch_size", "num_classes", "mean", "std", "quant", *fields]
            raise unknown(f"not a part of {name}", key, options)
        _check_size(key, value, getattr(usual, key), kinds[key], 0 if fields[key].default == 0 else 1)
    if not isinstance(drop_path, numbers.Real) or not 0 <= drop_path < 1:
        raise IntVitError(f"drop_path={drop_path!r}: expected a number from 0 to below 1")
    return build(
        dataclasses.replace(usual, **size),
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=mean,
        std=std,
        quant=quant,
        drop_path=drop_path,
        dense=dense,
    )


def size_named(name: Any) -> Size:
    """The size of one of MODELS, or of a model of timm by its name there. Raises IntVitError for any other name."""
    if isinstance(name, str):
        if name in MODELS:
            return MODELS[name]
        if timm_has(name):
            return timm_model(name).size
    raise IntVitError(
        f"model.name={name}: unknown model, expected one of {', '.join(MODELS)}, or timm's name of a VisionTransformer "
        "or SwinTransformer"
    )


def build(
    size: Size,
    *,
    image_size: int | tuple[int, int],
    patch_size: int | None,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    **options: Any,
) -> nn.Module:
    """The model of a size, its arguments checked; num_classes 0: features in place of scores.

    Raises IntVitError naming the argument that makes no sense.
    """
    mean, std = per_channel("mean", mean), per_channel("std", std)
    if len(mean) != len(std):
        raise IntVitError(f"mean has {len(mean)} channels, std {len(std)}: give one number of each per channel")
    return size.build(
        image_size=both_sides("image_size", image_size),
        patch_size=None if patch_size is None else whole_number("patch_size", patch_size),
        num_classes=whole_number("num_classes", num_classes, 0),
        mean=mean,
        std=std,
        **options,
    )


def _check_size(name: str, value: Any, usual: Any, kind: Any, least: int) -> None:
    """Raises IntVitError unless `value` is of the field's kind: truth value, choice, number, one number per stage."""
    if kind is bool:
        if not isinstance(value, bool):
            raise IntVitError(f"{name}={value!r}: expected True or False")
    elif typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise IntVitError(f"{name}={value!r}: expected one of {', '.join(choices)}")
    elif kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise IntVitError(f"{name}={value!r}: expected a number above 0, such as {usual}")
    elif isinstance(usual, tuple) or (isinstance(value, tuple | list) and kind is not int):
        if not isinstance(value, tuple | list) or not value:
            raise IntVitError(f"{name}={value!r}: expected a whole number for each stage, such as {usual}")
        for index, part in enumerate(value):
            whole_number(f"{name}[{index}]", part)
    else:
        whole_number(name, value, least)


def per_channel(name: str, values: Any) -> tuple[float, ...]:
    """`values` as floats, of a sequence, numpy or torch. Raises IntVitError for what pixels of 0..1 cannot have."""
    try:
        parts = tuple(math.nan if isinstance(value, str) else float(value) for value in values)
    except (TypeError, ValueError):
        raise IntVitError(f"{name} is {described(values)}; expected a number for each channel") from None
    divides = name == "std"
    if not parts or not all(0 <= part <= 1 and (part or not divides) for part in parts):
        bounds = "above 0, at most 1" if divides else "from 0 to 1"
        raise IntVitError(f"{name}={parts}: expected a number {bounds} for each channel, of pixels scaled to 0..1")
    return parts
