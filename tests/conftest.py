"""Shared by every test: one thread per worker, and the folder with real photos and weights where there is one."""

import os
from pathlib import Path

# Several test workers share the cores; set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder that INTVIT_TEST_DATA names (data/imagenette224, data/imagenet1k-sample, weights/); skips without."""
    folder = os.environ.get("INTVIT_TEST_DATA")
    if not folder:
        pytest.skip("INTVIT_TEST_DATA is not set: no real photos and weights here")
    if not Path(folder).is_dir():
        pytest.fail(f"INTVIT_TEST_DATA={folder}: no such folder")
    return Path(folder)
