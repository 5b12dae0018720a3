"""What an architecture is: a folder beside this file, found by what it offers.

To add one takes that folder, to add a size an entry there, and conf/model/NAME.yaml.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

_FOLDER = Path(__file__).parent


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
    nothing. traits: fields of the size that a state dict by timm's names shows, none for another architecture.
    """

    SIZES: Mapping[str, Size]
    TIMM: tuple[str, ...]

    def missing_features(self, model: Any) -> list[str]: ...
    def size_of(self, model: Any) -> Size: ...
    def traits(self, state: Mapping[str, Any]) -> dict[str, Any]: ...


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """All of them; their folders are imported when first asked for."""
    found = (
        importlib.import_module(f"intvit.models.{m.name}") for m in pkgutil.iter_modules([str(_FOLDER)]) if m.ispkg
    )
    return tuple(module for module in found if hasattr(module, "SIZES"))
