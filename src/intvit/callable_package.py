"""Packages that are functions as well: `intvit.export(model)` and `intvit.models()` beside `intvit.export.record`.

A verb of the library and a room have the same name there. Python binds a package's name in its parent as soon as anyone
imports it, so that only the package itself can be what is called, in whatever order things are imported.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from intvit.errors import naming_extras


class _CallablePackage(ModuleType):
    """A package whose call is the function that `_place` names, imported at the first call."""

    _place: tuple[str, str]  # module, function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function()(*arguments, **options)

    @property
    def __doc__(self) -> str:  # type: ignore[override]  # help(package) shows the package, and what calling it does
        function = self._function()
        called = f"{function.__name__}{inspect.signature(function)}\n\n{inspect.getdoc(function)}"
        return f"{self.__dict__['__doc__'].rstrip()}\n\n{called}"

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Any:
        module, name = self._place
        with naming_extras():
            return getattr(import_module(module), name)


def make_callable(package: str, module: str, function: str) -> None:
    """Called in the package's own __init__.py: calling it calls `function` of `module`, which it imports only then."""
    itself = sys.modules[package]
    itself.__class__ = _CallablePackage
    itself.__dict__["_place"] = (module, function)
