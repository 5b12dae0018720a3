"""Folders that the workers of a session share: the first to need one makes it, the others wait for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from intvit.claims import holding


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the session, of all workers together."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, once in a session. Tests read it only; one that changes it copies it first."""
    folder = shared_root(factory) / "shared" / name
    made = folder.with_name(f"{name}.made")
    with holding(folder.with_name(f"{name}.lock"), patience=600):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            make(folder)
            made.touch()
    return folder
