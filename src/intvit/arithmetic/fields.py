"""Operators as data: the integer fields of a parameter dataclass are attributes, its tensors are constants."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parameters = TypeVar("Parameters")


def to_fields(parameters: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(attributes, constants) of a parameter dataclass; fields that are None are left out, `kind` is an attribute."""
    values = {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}
    attributes = {name: value for name, value in values.items() if isinstance(value, int | str)}
    if hasattr(parameters, "kind"):
        attributes["kind"] = parameters.kind
    return attributes, {name: value for name, value in values.items() if isinstance(value, Tensor)}


def from_fields(kind: type[Parameters], attributes: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Parameters:
    """The parameter dataclass again; a field that neither mapping holds takes its default."""
    names = [field.name for field in dataclasses.fields(cast("type[DataclassInstance]", kind))]
    given = {**attributes, **constants}
    return kind(**{name: given[name] for name in names if name in given})
