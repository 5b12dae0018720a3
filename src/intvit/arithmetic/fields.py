"""Operators as data: the integers of a parameter dataclass are attributes, its tensors with an axis are constants."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parameters = TypeVar("Parameters")
Integer = int | Tensor
"""Of a program: an int. Derived from scales: an int64 tensor of no axis, on their device."""


def to_fields(parameters: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(attributes, constants) of a parameter dataclass; fields that are None are left out, `kind` is an attribute.

    Reads the host: integers of no axis become ints, and pieces of a polynomial that are nowhere go (`compact`).
    """
    if hasattr(parameters, "compact"):
        parameters = parameters.compact()
    attributes: dict[str, Any] = {}
    constants: dict[str, Tensor] = {}
    for field in dataclasses.fields(parameters):
        value = getattr(parameters, field.name)
        if isinstance(value, Tensor) and value.dim():
            constants[field.name] = value
        elif isinstance(value, int | str | Tensor):
            attributes[field.name] = int(value) if isinstance(value, Tensor) else value
    if hasattr(parameters, "kind"):
        attributes["kind"] = parameters.kind
    return attributes, constants


def device_of(parameters: Any) -> torch.device:
    """Where the tensors of a parameter dataclass are; the CPU where it has none."""
    values = (getattr(parameters, field.name) for field in dataclasses.fields(parameters))
    return next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))


def from_fields(kind: type[Parameters], attributes: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Parameters:
    """The parameter dataclass again; a field that neither mapping holds takes its default."""
    names = [field.name for field in dataclasses.fields(cast("type[DataclassInstance]", kind))]
    given = {**attributes, **constants}
    return kind(**{name: given[name] for name in names if name in given})
