"""The paths of the native runtime that run here."""

from __future__ import annotations

import pytest

from intvit.runtime.native import runtime as native_runtime

PATHS = native_runtime.supported()


needs_library = pytest.mark.skipif(not PATHS, reason="the native runtime is not compiled here")
