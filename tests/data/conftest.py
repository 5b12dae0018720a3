"""Fixtures: real photos where INTVIT_TEST_DATA says that they are, and a cache folder with the digits."""

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


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory) -> Path:
    """A cache folder that holds the digits."""
    from intvit.data.digits import digits_root

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTVIT_CACHE", str(cache))
        digits_root()
    return cache
