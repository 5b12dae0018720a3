"""Parameters of a test, of which some are quick."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(quick: Collection[Any], parameters: Iterable[Any]) -> list[Any]:
    """The parameters; those that are not among the quick ones are slow."""
    return [each if each in quick else pytest.param(each, marks=pytest.mark.slow) for each in parameters]
