"""Families: approximations of softmax's exponential and of activations, found by name.

A family turns real scales into the integers of a kind of the program format (`exponent.py`, `gelu.py`). It comes from

- a file of `exponentials/` or `activations/`, which registers it: ours,
- an entry point of an installed package, in the group `intvit.softmax` or `intvit.gelu`,
- a name MODULE:FUNCTION, imported when it is first asked for; the current folder is searched, too.

The latter two are plain functions on integers, which become tables: every such operator is a function of at most 16
bits. What goes wrong inside one is an error of the user's, in one line. How to write one: CONTRIBUTING.md and
examples/own_gelu.py.

Ours derive on the device of their scales, many sites at a time, and read nothing on the host. A function that is not
ours is called on the CPU with Python's numbers, so that a GPU trains the integers that the CPU derives: its scales are
read on the host, once a step and site.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import operator
import pkgutil
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import round_to
from intvit.arithmetic.elementary import reals
from intvit.errors import IntVitError

Function = TypeVar("Function", bound=Callable[..., Any])
Real = Callable[[Tensor], Tensor]
AsTable = Callable[[str, Callable[..., Tensor]], Callable[..., Any]]
Grid = Callable[[Mapping[str, Any]], float | None]
_NAME = re.compile(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*")  # MODULE:FUNCTION, both possibly dotted
# Where a function is asked for its digest: scales and widths of a softmax or a GELU.
_PROBES: dict[str, list[tuple[Any, ...]]] = {
    "softmax": [(0.02, 197, 8), (0.1, 50, 8), (0.5, 17, 4)],
    "gelu": [(0.02, 0.02, 8, 8), (0.05, 0.04, 8, 8), (0.3, 0.1, 4, 8)],
}
_ARGUMENTS = {"softmax": ("distances", "scale", "largest"), "gelu": ("codes", "scale", "output_scale")}
_REAL_SCALES = {"softmax": 1, "gelu": 2}  # leading arguments of a derivation; widths and lengths follow


@dataclass(frozen=True)
class Family:
    """One approximation. Pickled as its name: another process looks it up, and imports it, again.

    kind: as in quant.KIND.family.
    derive: real scales (float64 of no axis) and widths -> parameters of a kind; keyword arguments beside `site` are its
        `options`.
    real: of an activation, the float function that it stands for, which float mode computes and gradients follow.
    grid: options -> c where the family rounds 1 / (c * scale) up to an integer, or None (`Quantizer`).
    exact: of an activation of ours that is a table, its function in float64, of IEEE-exact operations alone.
    function: whether it is a plain function on integers, which a program holds as a table under this name.
    foreign: whether it is a user's or another package's, which may change under a trained run.
    """

    kind: str
    name: str
    derive: Callable[..., Any]
    real: Real | None = None
    grid: Grid = lambda options: None
    exact: Real | None = None
    function: bool = False
    foreign: bool = False

    def digest(self) -> str:
        """16 hexadecimal digits over tables of a plain function; another value: another function."""
        digest = hashlib.sha256()
        for scales in _PROBES[self.kind]:
            try:
                digest.update(self(*scales).table.numpy().tobytes())
            except IntVitError:
                digest.update(b"refused")
        return digest.hexdigest()[:16]

    @property
    def options(self) -> tuple[str, ...]:
        """Keys of the config that `derive` takes."""
        parameters = inspect.signature(self.derive).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "site")

    @property
    def batchable(self) -> bool:
        """Whether `derive` stays on the device of its scales and may run under `batched`."""
        return not self.foreign

    def __call__(self, *scales: Any, **options: Any) -> Any:
        """`derive`; real scales may be numbers, too."""
        count = _REAL_SCALES[self.kind]
        return self.derive(*reals(*scales[:count]), *scales[count:], **options)

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
        self._points: dict[str, EntryPoint] = {}  # of installed packages, loaded when they are asked for
        self._listed: tuple[str, ...] = ()  # names MODULE:FUNCTION that stand beside ours at present
        self._complete = False
        self._lock = threading.RLock()

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
        integers whose multiples of the output scale are its values; the caller saturates them. Scales are float64 of no
        axis on the codes' device, and the function reads nothing on the host.
        real: the float function of an activation, float32 in and out, differentiable; GELU where none is given.
        """

        def add(function: Function) -> Function:
            self._families[name] = self._of_function(name, function, real)
            return function

        return add

    def register_exact(self, name: str, *, real: Real | None = None) -> Callable[[Real], Real]:
        """Decorator for an activation: float64 of codes * scale -> float64, rounded to a table in steps of the output.

        real: as in `register_function`.
        """

        def add(exact: Real) -> Real:
            def table(codes: Tensor, scale: Tensor, output_scale: Tensor) -> Tensor:
                return round_to(exact(codes.double() * scale), output_scale)

            self._families[name] = replace(self._of_function(name, table, real), exact=exact)
            return exact

        return add

    def _of_function(self, name: str, function: Any, real: Real | None, foreign: bool = False) -> Family:
        if not callable(function):
            raise IntVitError(f"quant.{self.kind}.family={name} is {function!r}; expected a function on integers")
        if foreign:
            _check_arguments(f"quant.{self.kind}.family={name}", function, _ARGUMENTS[self.kind])
        real = real or getattr(function, "real", None) or self._real
        if real is not None and not callable(real):
            raise IntVitError(f"quant.{self.kind}.family={name}: its attribute `real` is {real!r}, not a function")
        function = _guarded(name, function) if foreign else function
        return Family(self.kind, name, self._as_table(name, function), real, function=True, foreign=foreign)

    def __getitem__(self, name: str) -> Family:
        """Raises KeyError for an unknown name, IntVitError for a function that can't be had."""
        self._load()
        with self._lock:
            if name not in self._families and (name in self._points or ":" in name):
                self._families[name] = self._of_function(name, self._found(name), None, foreign=True)
            return self._families[name]

    def __contains__(self, name: object) -> bool:
        """A name MODULE:FUNCTION is one where it can be imported; IntVitError says why not."""
        return isinstance(name, str) and (name in iter(self) or (":" in name and self[name] is not None))

    def __iter__(self) -> Iterator[str]:
        """Ours, those of installed packages, and inside `listing` its names; not all that were ever asked for."""
        self._load()
        ours = (name for name in self._families if ":" not in name)
        return iter(dict.fromkeys((*ours, *self._points, *self._listed)))

    @contextmanager
    def listing(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, the families MODULE:FUNCTION of `names` stand beside ours, wherever all are gone through."""
        before, self._listed = self._listed, (*self._listed, *names)
        try:
            yield
        finally:
            self._listed = before

    def __len__(self) -> int:
        return sum(1 for _ in iter(self))

    def standing_for(self, real: Real | None) -> list[str]:
        """Names of the approximations of one float function."""
        return [name for name in self if self[name].real is real]

    def _load(self) -> None:
        """Import our own files; packages' entry points are named here, and ours have their names first."""
        with self._lock:
            if self._complete:
                return
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            points = {point.name: point for point in entry_points(group=self.group)}
            self._points = {name: point for name, point in points.items() if name not in self._families}
            self._complete = True

    def _found(self, name: str) -> Any:
        """What an entry point or MODULE:FUNCTION stands for. Raises IntVitError."""
        point = self._points.get(name)
        key = f"quant.{self.kind}.family={name}" + (f", entry point {point.value}" if point else "")
        path = point.value if point else name
        if not _NAME.fullmatch(path):
            raise IntVitError(f"{key}: expected MODULE:FUNCTION, such as own_gelu:hard_gelu")
        module, _, attribute = path.partition(":")
        imported = _imported(module, key)
        try:
            return operator.attrgetter(attribute)(imported)
        except AttributeError:
            named = vars(imported).items()
            there = [name for name, value in named if inspect.isfunction(value) and value.__module__ == module][:10]
            where = getattr(imported, "__file__", None) or module
            raise IntVitError(f"{key}: no {attribute} in {where}; it has {', '.join(there) or 'none'}") from None


def _imported(module: str, key: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python train.py` has its own folder there; the console script has not
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if missing:
            raise IntVitError(f"{key}: no module {module} in {folder} or among the installed packages") from error
        raise IntVitError(f"{key}: importing {module} {_what(error)}") from error


def _check_arguments(key: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    """Raises IntVitError for a function that cannot be called with so many."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of compiled code
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise IntVitError(f"{key} takes {signature}; expected a function of ({', '.join(arguments)})") from None


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's function whose exceptions are the user's, and which gives equal integers for equal arguments.

    It is called on the CPU with Python's numbers; what it returns moves to the device of the codes.
    """
    proven = False

    def call(codes: Tensor, *scales: Tensor | int) -> Any:
        nonlocal proven
        host, numbers = codes.cpu(), [scale.item() if isinstance(scale, Tensor) else scale for scale in scales]
        try:
            values = function(host.clone(), *numbers)
            again = values if proven else function(host.clone(), *numbers)
        except Exception as error:
            raise IntVitError(f"family {name} {_what(error)}") from error
        if isinstance(values, Tensor) and isinstance(again, Tensor) and not torch.equal(values, again):
            raise IntVitError(f"family {name} gives other integers when it is called again: a program needs a function")
        proven = True
        return values.to(codes.device) if isinstance(values, Tensor) else values

    return call


def _what(error: Exception) -> str:
    """`raised ZeroDivisionError: ... (file.py, line 3)`, and how to see more."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    place = f"{last.filename}, line {last.lineno}"
    return f"raised {type(error).__name__}: {error} ({place}); HYDRA_FULL_ERROR=1 shows the traceback"


def checked_integers(name: str, site: str, values: Any, count: int) -> Tensor:
    """What a plain function returned, int64 [count]. Raises IntVitError for anything that is not `count` integers."""
    integers = isinstance(values, Tensor) and not (values.is_floating_point() or values.is_complex())
    if not integers or tuple(values.shape) != (count,):
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise IntVitError(f"{site}: family {name} returned {found}; expected a tensor of {count} integers")
    return values.to(torch.int64)
