"""The models by name, collected from the architectures' files, and how to build one.

An architecture is a folder beside this file: see `Architecture`. To add one takes that folder, to add a size an entry
there, and conf/model/NAME.yaml.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import numbers
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from intvit.arguments import both_sides, described, unknown, whole_number
from intvit.errors import IntVitError
from intvit.quant import QuantConfig


class Size(Protocol):
    """One member of an architecture's family: a dataclass of what `create_model` may replace, such as width.

    timm: timm's name for it, whose weights fit. patch: the usual size of a patch, in pixels.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def timm(self) -> str: ...
    @property
    def patch(self) -> int: ...
    def build(self, **options: Any) -> nn.Module: ...


class Architecture(Protocol):
    """What a folder of an architecture offers.

    SIZES: the sizes by name. TIMM: timm's classes, as module.class, whose instances can be taken over.
    missing_features: what an instance has that ours do not compute, in words. size_of: the size of one that lacks
    nothing.
    """

    SIZES: Mapping[str, Size]
    TIMM: tuple[str, ...]

    def missing_features(self, model: Any) -> list[str]: ...
    def size_of(self, model: Any) -> Size: ...


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """All of them; their folders are imported when first asked for."""
    found = (
        importlib.import_module(f"intvit.models.{m.name}") for m in pkgutil.iter_modules([str(_FOLDER)]) if m.ispkg
    )
    return tuple(module for module in found if hasattr(module, "SIZES"))


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


_FOLDER = Path(__file__).parent
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
    **size: Any,
) -> nn.Module:
    """Build `name` with random weights, in float mode.

    patch_size None takes the model's own. `size` overrides fields of the model's size, such as width, depth or heads
    (reduced models of tests). Raises IntVitError for an unknown name or field, a size that makes no sense, and an image
    size that the patch does not divide.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise IntVitError(f"model.name={name}: unknown model, expected one of {', '.join(MODELS)}")
    usual: Any = MODELS[name]
    fields = [field.name for field in dataclasses.fields(usual) if field.name != "timm"]
    for key, value in size.items():
        if key not in fields:
            options = ["image_size", "patch_size", "num_classes", "mean", "std", "quant", *fields]
            raise unknown(f"not a part of {name}", key, options)
        _check_size(key, value, getattr(usual, key))
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
    """The model of a size, its arguments checked. Raises IntVitError naming the one that makes no sense."""
    mean, std = per_channel("mean", mean), per_channel("std", std)
    if len(mean) != len(std):
        raise IntVitError(f"mean has {len(mean)} channels, std {len(std)}: give one number of each per channel")
    return size.build(
        image_size=both_sides("image_size", image_size),
        patch_size=None if patch_size is None else whole_number("patch_size", patch_size),
        num_classes=whole_number("num_classes", num_classes),
        mean=mean,
        std=std,
        **options,
    )


def _check_size(name: str, value: Any, usual: Any) -> None:
    """Raises IntVitError unless `value` is of the kind of the model's own: a truth value, a number, one per stage."""
    if isinstance(usual, bool):
        if not isinstance(value, bool):
            raise IntVitError(f"{name}={value!r}: expected True or False")
    elif isinstance(usual, tuple):
        if not isinstance(value, tuple | list) or not value:
            raise IntVitError(f"{name}={value!r}: expected a whole number for each stage, such as {usual}")
        for index, part in enumerate(value):
            whole_number(f"{name}[{index}]", part)
    else:
        whole_number(name, value)


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
