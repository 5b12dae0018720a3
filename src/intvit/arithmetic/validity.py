"""Checks of derivations, at once or at the end of a step, and derivations of many sites at a time.

A derivation reads nothing on the host: what it requires of a scale is a bool tensor. Outside of a step `require` reads
it and raises. Inside `deferred_checks` it is kept, and the step asks once whether all were met: what was derived from a
scale that is refused is then some integers that nobody uses, and deriving them again at once says what was wrong.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from intvit.errors import IntVitError


class Checks:
    """The conditions that were kept in a block of `deferred_checks`."""

    def __init__(self) -> None:
        self.conditions: list[Tensor] = []

    def valid(self) -> Tensor:
        """Whether all conditions of the block hold: bool of no axis, on their device, by two operations."""
        if not self.conditions:
            return torch.ones((), dtype=torch.bool)
        return torch.cat([condition.reshape(-1) for condition in self.conditions]).all()


class _Present(threading.local):
    checks: Checks | None = None


_present = _Present()


@contextlib.contextmanager
def deferred_checks() -> Iterator[Checks]:
    """In this block and thread `require` keeps its conditions, so that nothing is read on the host."""
    before, _present.checks = _present.checks, Checks()
    try:
        yield _present.checks
    finally:
        _present.checks = before


def require(condition: Tensor, message: Callable[[], str]) -> None:
    """Demand that a bool tensor of any shape holds everywhere.

    Raises:
        IntVitError(message()): it does not, outside of `deferred_checks`.
    """
    if _present.checks is not None:
        _present.checks.conditions.append(condition)
    elif not bool(condition.all()):
        raise IntVitError(message())


def batched(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """A derivation of S sites at once: `function` under `torch.func.vmap`, its checks included.

    Args:
        function: of tensors without the axis of sites; returns a tensor, a parameter dataclass or a tuple of them.
        arguments: tensors whose first axis has S entries.

    Returns:
        what `function` returns, its tensors with the axis of sites in front. Numbers and names stay as they are.

    Raises:
        IntVitError: what `function` says of the first site that it refuses, outside of `deferred_checks`.
    """
    result: Any = None

    def of_site(*values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        nonlocal result
        with deferred_checks() as checks:
            result = function(*values)
        return _tensors(result), checks.conditions

    tensors, conditions = torch.func.vmap(of_site)(*arguments)
    if _present.checks is not None:
        _present.checks.conditions += conditions
    elif conditions:
        met = torch.cat([condition.reshape(len(condition), -1) for condition in conditions], 1).all(1)
        for site in (~met).nonzero():
            function(*(argument[int(site)] for argument in arguments))  # raises
    return _with_tensors(result, iter(tensors))


def _tensors(result: Any) -> list[Tensor]:
    """Every tensor of nested tuples and dataclasses, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in _parts(result) for tensor in _tensors(part)]


def _with_tensors(result: Any, tensors: Iterator[Tensor]) -> Any:
    """`result` with other tensors in the places of `_tensors`."""
    if isinstance(result, Tensor):
        return next(tensors)
    if isinstance(result, tuple):
        return tuple(_with_tensors(part, tensors) for part in result)
    if is_dataclass(result) and not isinstance(result, type):
        names = [field.name for field in fields(result)]
        return replace(result, **{name: _with_tensors(getattr(result, name), tensors) for name in names})
    return result


def _parts(result: Any) -> tuple[Any, ...]:
    if is_dataclass(result) and not isinstance(result, type):
        return tuple(getattr(result, field.name) for field in fields(result))
    return result if isinstance(result, tuple) else ()
