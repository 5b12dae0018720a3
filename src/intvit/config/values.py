"""Typed values from a composed config: pydantic checks them, the message is one line in the config's own terms.

Nothing here knows what the keys mean: classes derived from `TypedConfig` stand beside the code that they configure.
They hold types, bounds and documentation. Defaults stand in conf/, because the identity of a run is that of its
composed config; a class has null where presets leave a key out, and no other (tests/config/test_defaults.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from intvit.errors import IntVitError

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


def _both_sides(value: Any) -> Any:
    """(n, n) for a number n; a list as a tuple."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


# Height and width. The config says one number for both, or a list of two.
Sides = Annotated[
    tuple[Count, Count],
    BeforeValidator(_both_sides),
    Field(title="a whole number of at least 1, or [height, width]"),
]

OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")  # of pydantic


class TypedConfig:
    """Base of the frozen dataclasses that `build` makes. error: raised for a value that does not fit."""

    # strict: no text for a number, no number for a truth value; a whole number is a real, too
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    error: ClassVar[type[IntVitError]] = IntVitError


Config = TypeVar("Config", bound=TypedConfig)


def build(kind: type[Config], values: Any, where: str = "") -> Config:
    """An instance of the dataclass `kind` from nested plain values, checked key by key.

    where: path of `values` in the config, for messages.
    Raises `kind.error` naming the key for an unknown or missing key and for a value of another type or out of bounds,
    and what the checks of the dataclasses raise themselves.
    """
    if not isinstance(values, Mapping):
        raise kind.error(f"{where}={values}: expected a group of keys")
    try:
        # As JSON, because that is what YAML holds: pydantic then takes a list for a tuple and a group for a dataclass.
        built: Config = _adapter(typing.cast("Any", kind)).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _explained(kind, values, where, min(error.errors(), key=_rank)) from None
    return built


def _rank(problem: Mapping[str, Any]) -> int:
    """What is unknown first, what is missing last: a misspelt key is both."""
    if problem["type"] == "unexpected_keyword_argument":
        return 0
    return 2 if problem["type"] == "missing" and isinstance(problem["loc"][-1], str) else 1


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _explained(kind: type[TypedConfig], values: Any, where: str, problem: Mapping[str, Any]) -> Exception:
    """The error for one of pydantic's problems."""
    if problem["type"] == "value_error":  # raised by a dataclass itself
        return typing.cast("Exception", problem["ctx"]["error"])
    hint: Any = kind
    for step in problem["loc"]:
        inner = _only_choice(hint)
        if _title(inner):
            break  # the value is described as a whole
        if isinstance(step, int):
            if step >= len(values):
                break  # the list is too short
            hint, where = typing.get_args(inner)[0], f"{where}[{step}]"
        elif dataclasses.is_dataclass(inner):
            kind, where = typing.cast("type[TypedConfig]", inner), key_path(where, step)
            hints = typing.get_type_hints(kind, include_extras=True)
            if step not in hints:
                return kind.error(f"{where}: unknown key; {_suggestion(step, _keys(kind))}")
            hint = hints[step]
        else:
            break  # pydantic names the member of a union that it tried
        values = values.get(step) if isinstance(values, Mapping) else values[step]
    if values is None and problem["type"].startswith("missing"):
        return kind.error(f"{where}: missing, expected {_describe(hint)}")
    return kind.error(_expected(where, values, hint, out_of_bounds=problem["type"] in OUT_OF_BOUNDS))


def _expected(where: str, value: Any, hint: Any, *, out_of_bounds: bool) -> str:
    inner = _only_choice(hint)
    if typing.get_origin(inner) is Literal:
        return f"{where}={value}: unknown, expected {_describe(hint)}"
    if typing.get_origin(inner) is list and isinstance(value, str | int | float):
        return f"{where}={value}: expected {_describe(hint)}; say {where}=[{value}]"
    if not out_of_bounds or typing.get_origin(inner) is not Annotated or _title(inner):
        return f"{where}={value}: expected {_describe(hint)}"
    base, bounds = typing.get_args(inner)
    reason = f" ({bounds.description})" if bounds.description else ""
    return f"{where}={base(value)}: expected {_range(bounds)}{reason}"


def _only_choice(hint: Any) -> Any:
    """X of `X | None`, else the hint."""
    choices = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return choices[0] if _is_union(hint) and len(choices) == 1 else hint


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _describe(hint: Any) -> str:
    """The type in words for a message."""
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return " or ".join("null" if part is types.NoneType else _describe(part) for part in parameters)
    if origin is Annotated:
        return _title(hint) or _describe(parameters[0])
    if origin is Literal:
        return "one of " + ", ".join(str(part) for part in parameters)
    if origin is tuple and Ellipsis not in parameters:
        return f"a list of {len(parameters)} ({_describe(parameters[0])} each)"
    if origin in (list, tuple):
        plural = {int: "integers", float: "numbers", str: "texts"}
        return f"a list of {plural.get(parameters[0]) or _describe(parameters[0])}"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, "a group of keys")


def _title(hint: Any) -> str | None:
    """What a type of ours calls its values, if it does."""
    return next((part.title for part in typing.get_args(hint) if isinstance(part, FieldInfo)), None)


def _range(bounds: FieldInfo) -> str:
    """`2 to 8`, `above 0, at most 1`."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = {name: getattr(bound, name) for bound in bounds.metadata for name in words if hasattr(bound, name)}
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    return ", ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def key_path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def _keys(kind: type[TypedConfig]) -> list[str]:
    return [part.name for part in dataclasses.fields(typing.cast("Any", kind))]


def _suggestion(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
