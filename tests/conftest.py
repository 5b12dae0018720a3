"""Shared by every test: one thread per worker, and the folder with real photos and weights where there is one."""

import os
import signal
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Environment and signal handlers as they were: Lightning leaves its own behind, also when a run fails."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def own_wandb() -> Iterator[None]:
    """W&B reads the environment once in a process: the next test starts it anew."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()
