"""Typed values from a composed config, checked key by key.

Nothing here knows what the keys mean; the dataclasses stand beside the code that they configure.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intvit.errors import IntVitError


def build(kind: Any, values: Any, where: str = "") -> Any:
    """An instance of the dataclass `kind` from nested plain values, checked key by key.

    where: path of `values` in the config, for messages.
    Raises IntVitError naming the key for an unknown or missing key and for a value of another type.
    """
    if not isinstance(values, Mapping):
        raise IntVitError(f"{where}={values}: expected a group of keys")
    hints = typing.get_type_hints(kind)
    names = [part.name for part in dataclasses.fields(kind)]
    for key in values:
        if key not in names:
            raise IntVitError(f"{key_path(where, key)}: unknown key; {_suggestion(key, names)}")
    arguments = {key: _convert(hints[key], value, key_path(where, key)) for key, value in values.items()}
    for part in dataclasses.fields(kind):
        required = part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
        if required and part.name not in arguments:
            raise IntVitError(f"{key_path(where, part.name)}: missing, expected {_describe(hints[part.name])}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type: dataclass, Optional, union, tuple, list, dict, Literal, Path or scalar."""
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(parameters, value, where, hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is typing.Literal and value in parameters:
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        items = [_convert(parameters[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
        fixed = origin is tuple and Ellipsis not in parameters
        if not fixed or len(items) == len(parameters):
            return origin(items)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(parameters[1], item, key_path(where, str(key))) for key, item in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise IntVitError(f"{where}={value}: expected {_describe(hint)}")


def _convert_union(parameters: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if value is None and types.NoneType in parameters:
        return None
    choices = [part for part in parameters if part is not types.NoneType]
    if len(choices) == 1 and dataclasses.is_dataclass(choices[0]):
        return build(choices[0], value, where)  # its message names the key inside the group
    for choice in choices:
        try:
            return _convert(choice, value, where)
        except IntVitError:
            continue
    raise IntVitError(f"{where}={value}: expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    """The type in words for a message."""
    parameters = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("null" if part is types.NoneType else _describe(part) for part in parameters)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(part) for part in parameters)
    if typing.get_origin(hint) in (list, tuple):
        return f"a list of {_describe(parameters[0])}"
    if dataclasses.is_dataclass(hint):
        return "a group of keys"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return names.get(hint, str(hint))


def key_path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _suggestion(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
