"""Fixture: real photos where INTVIT_TEST_DATA says that they are."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds `imagenette224` and `imagenet1k-sample`."""
    root = os.environ.get("INTVIT_TEST_DATA")
    if not root:
        pytest.skip("INTVIT_TEST_DATA is not set: no real photos (a folder with data/imagenette224 in it)")
    return Path(root) / "data"
