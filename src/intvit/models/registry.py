"""The models by name, collected from the architectures' files, and how to build one.

An architecture is a file of this folder with SIZES: name -> `Size`. To add one takes that file, to add a size an entry
there, and conf/model/NAME.yaml.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

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


class Models(Mapping[str, Size]):
    """The sizes of every architecture by name, collected at the first look: files of this folder import this one."""

    @functools.cached_property
    def _sizes(self) -> dict[str, Size]:
        sizes: dict[str, Size] = {}
        for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
            sizes |= getattr(importlib.import_module(f"intvit.models.{module.name}"), "SIZES", {})
        return dict(sorted(sizes.items()))

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
    image_size: int,
    patch_size: int | None,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    quant: QuantConfig,
    drop_path: float = 0.0,
    **size: Any,
) -> nn.Module:
    """Build `name` with random weights, in float mode.

    patch_size None takes the model's own. `size` overrides fields of the model's size, such as width, depth or heads
    (reduced models of tests). Raises IntVitError for an unknown name or an image size that the patch does not divide.
    """
    if name not in MODELS:
        raise IntVitError(f"model.name={name}: unknown model, expected one of {', '.join(MODELS)}")
    return dataclasses.replace(MODELS[name], **size).build(
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=tuple(mean),
        std=tuple(std),
        quant=quant,
        drop_path=drop_path,
    )
