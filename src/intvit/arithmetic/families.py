"""Families: approximations of softmax's exponential and of activations, found by name.

A family turns real scales into the integers of a kind of the program format (`exponent.py`, `gelu.py`). It comes from

- a file of `exponentials/` or `activations/`, which registers it: ours,
- an entry point of an installed package, in the group `intvit.softmax` or `intvit.gelu`,
- a name MODULE:FUNCTION, imported when it is first asked for; the current folder is searched, too.

The latter two are plain functions on integers, which become tables: every such operator is a function of at most 16
bits. How to write one: CONTRIBUTING.md and examples/own_gelu.py.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from intvit.errors import IntVitError

Function = TypeVar("Function", bound=Callable[..., Any])
Real = Callable[[Tensor], Tensor]
AsTable = Callable[[str, Callable[..., Tensor]], Callable[..., Any]]
Grid = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Family:
    """One approximation. Pickled as its name: another process looks it up, and imports it, again.

    kind: as in quant.KIND.family.
    derive: real scales and widths -> parameters of a kind; keyword arguments beside `site` are its `options`.
    real: of an activation, the float function that it stands for, which float mode computes and gradients follow.
    grid: options -> c where the family rounds 1 / (c * scale) up to an integer, or None (`Quantizer`).
    function: whether it is a plain function on integers, which a program holds as a table under this name.
    """

    kind: str
    name: str
    derive: Callable[..., Any]
    real: Real | None = None
    grid: Grid = lambda options: None
    function: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Keys of the config that `derive` takes."""
        parameters = inspect.signature(self.derive).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "site")

    def __call__(self, *scales: Any, **options: Any) -> Any:
        """`derive`."""
        return self.derive(*scales, **options)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return _by_name, (self.kind, self.name)


def _by_name(kind: str, name: str) -> Any:
    package = importlib.import_module("intvit.arithmetic")
    return getattr(package, f"{kind.upper()}_FAMILIES")[name]


class Families(Mapping[str, Family]):
    """The families of one kind of operator, by name."""

    def __init__(self, kind: str, package: str, as_table: AsTable, real: Real | None) -> None:
        """kind: as in quant.KIND.family. package: of our own. as_table: derivation of a plain function's table.

        real: the float function that they stand for unless they say otherwise.
        """
        self.kind, self.group, self._package = kind, f"intvit.{kind}", package
        self._as_table, self._real = as_table, real
        self._families: dict[str, Family] = {}
        self._complete = False

    def register(
        self, name: str, *, real: Real | None = None, grid: Grid | None = None
    ) -> Callable[[Function], Function]:
        """Decorator for a derivation: (scales and widths, *, site, options) -> parameters of a kind."""

        def add(derive: Function) -> Function:
            self._families[name] = Family(self.kind, name, derive, real or self._real, grid or Family.grid)
            return derive

        return add

    def register_function(self, name: str, *, real: Real | None = None) -> Callable[[Function], Function]:
        """Decorator for a plain function on integers, which becomes a table.

        An exponential takes (distances int64 [n], scale, largest) and returns integers proportional to
        e^(-distance * scale), at most `largest`. An activation takes (codes int64 [n], scale, output scale) and returns
        integers whose multiples of the output scale are its values; the caller saturates them.
        real: the float function of an activation, float32 in and out, differentiable; GELU where none is given.
        """

        def add(function: Function) -> Function:
            self._families[name] = self._of_function(name, function, real)
            return function

        return add

    def _of_function(self, name: str, function: Callable[..., Tensor], real: Real | None) -> Family:
        real = real or getattr(function, "real", None) or self._real
        return Family(self.kind, name, self._as_table(name, function), real, function=True)

    def __getitem__(self, name: str) -> Family:
        """Raises KeyError for an unknown name, IntVitError for MODULE:FUNCTION that can't be had."""
        self._load()
        if name not in self._families and ":" in name:
            self._families[name] = self._of_function(name, self._imported(name), None)
        return self._families[name]

    def __contains__(self, name: object) -> bool:
        """A name MODULE:FUNCTION is one where it can be imported; IntVitError says why not."""
        return isinstance(name, str) and (name in iter(self) or (":" in name and self[name] is not None))

    def __iter__(self) -> Iterator[str]:
        """Ours, those of installed packages, and those that were asked for."""
        self._load()
        return iter(tuple(self._families))

    def __len__(self) -> int:
        self._load()
        return len(self._families)

    def standing_for(self, real: Real | None) -> list[str]:
        """Names of the approximations of one float function."""
        return [name for name in self if self[name].real is real]

    def _load(self) -> None:
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for point in entry_points(group=self.group):
            if point.name in self._families:
                raise IntVitError(f"entry point {point.name} = {point.value} of {self.group}: that name is taken")
            self._families[point.name] = self._of_function(point.name, point.load(), None)

    def _imported(self, name: str) -> Callable[..., Tensor]:
        key, (module, _, attribute) = f"quant.{self.kind}.family={name}", name.partition(":")
        folder = str(Path.cwd())
        if folder not in sys.path:  # as `python train.py` has its own folder there; the console script has not
            sys.path.append(folder)
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and lacks something itself
            raise IntVitError(f"{key}: no module {module} in {folder} or among the installed packages") from error
        except ValueError as error:  # of importlib: an empty or relative name
            raise IntVitError(f"{key}: expected MODULE:FUNCTION, such as own_gelu:hard_gelu") from error
        function = getattr(imported, attribute, None)
        if not callable(function):
            there = [name for name, value in vars(imported).items() if inspect.isfunction(value)]
            raise IntVitError(f"{key}: {module} has no function {attribute!r}; it has {', '.join(there) or 'none'}")
        return function


def checked_integers(name: str, site: str, values: Any, count: int) -> Tensor:
    """What a plain function returned, int64 [count]. Raises IntVitError for anything that is not `count` integers."""
    integers = isinstance(values, Tensor) and not (values.is_floating_point() or values.is_complex())
    if not integers or tuple(values.shape) != (count,):
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise IntVitError(f"{site}: family {name} returned {found}; expected a tensor of {count} integers")
    return values.to(torch.int64)
