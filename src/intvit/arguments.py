"""What callers give to the library's verbs, checked: whole numbers, paths, arrays. Each mistake is one IntVitError."""

from __future__ import annotations

import difflib
import operator
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from intvit.errors import IntVitError


def whole_number(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """`value` as an int, NumPy's included. Raises IntVitError for another type, a truth value and one out of bounds."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool | np.bool_) or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise IntVitError(f"{name}={value!r}: expected a whole number {bounds}")
    return number


def both_sides(name: str, value: Any) -> tuple[int, int]:
    """Height and width; a whole number stands for both. Raises IntVitError for others, and for numbers below 1."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise IntVitError(f"{name}={value!r}: expected a whole number, or (height, width)")
        height, width = value
        return whole_number(f"{name}[0]", height), whole_number(f"{name}[1]", width)
    side = whole_number(name, value)
    return side, side


def sides_text(sides: tuple[int, int]) -> str:
    """Height and width as a config says them: one number where both are equal."""
    height, width = sides
    return str(height) if height == width else f"[{height},{width}]"


def unknown(kind: str, name: str, names: Sequence[str]) -> IntVitError:
    """The error for a keyword that there is not, with the nearest of `names`, or all of them."""
    near = difflib.get_close_matches(name, names, 1)
    return IntVitError(f"{name}: {kind}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"))


def as_path(name: str, value: Any) -> Path:
    """`value` as a path. Raises IntVitError unless it is a text or a path of the standard library."""
    if not isinstance(value, str | os.PathLike):
        raise IntVitError(f"{name} is {described(value)}; expected a path")
    return Path(value)


def is_array(values: Any) -> bool:
    """Whether `values` is a numpy array or a torch tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return isinstance(values, np.ndarray) or (torch is not None and isinstance(values, torch.Tensor))


def as_array(name: str, values: Any) -> np.ndarray:
    """A numpy array as it is, a torch tensor of any device as numpy. Raises IntVitError for a type numpy has not."""
    if isinstance(values, np.ndarray):
        return values
    try:
        array: np.ndarray = values.detach().cpu().numpy()
    except (TypeError, RuntimeError):  # bfloat16, sparse, ...
        raise IntVitError(f"{name} is {described(values)}, which numpy does not have") from None
    return array


def as_labels(labels: Any, count: int) -> np.ndarray:
    """Classes of `count` images, one integer each, from an array or a sequence: (count,).

    Raises IntVitError for another number or shape and for values that are not integers.
    """
    try:
        array = as_array("labels", labels) if is_array(labels) else np.asarray(labels)
    except ValueError:  # rows of unequal lengths
        raise IntVitError(f"labels are {described(labels)} of unlike parts; expected ({count},) integers") from None
    given = 0 if labels is None else array.size
    if given != count:
        raise IntVitError(f"{count} images with {given} labels: give one for each")
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise IntVitError(f"labels are {described(array)}; expected integers of shape ({count},), the class of each")
    return np.ascontiguousarray(array)


def described(value: Any) -> str:
    """A value in a few words, for messages: an array's type and shape, a short value itself, else its type."""
    if is_array(value):
        return f"an array of {value.dtype} {tuple(value.shape)}"
    text = repr(value)
    plain = value is None or isinstance(value, str | int | float)
    return text if plain and len(text) < 60 else f"of type {type(value).__name__}"
