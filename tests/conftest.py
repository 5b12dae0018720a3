"""Shared by every test: one thread per worker, one cache, real photos and weights where there are some."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Several test workers share the cores; set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.support.shared import shared_folder, shared_root

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups, each of which one worker runs, begin first: at the end the other workers would wait for them."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder that INTVIT_TEST_DATA names (data/imagenette224, data/imagenet1k-sample, weights/); skips without."""
    folder = os.environ.get("INTVIT_TEST_DATA")
    if not folder:
        pytest.skip("INTVIT_TEST_DATA is not set: no real photos and weights here")
    if not Path(folder).is_dir():
        pytest.fail(f"INTVIT_TEST_DATA={folder}: no such folder")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of made data for the whole session, with few digits in it where a test trains on them."""
    cache = shared_root(tmp_path_factory) / "cache"
    tiny_runs = sys.modules.get("tests.support.tiny_runs")
    if tiny_runs is not None:
        tiny_runs.write_few_digits(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTVIT_CACHE", str(cache))
        yield


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds all the digits, for tests of the digits themselves."""
    from intvit.data.digits import digits_root

    cache = shared_root(tmp_path_factory) / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTVIT_CACHE", str(cache))
        digits_root()
    return cache


@pytest.fixture(scope="session")
def _emulated_amx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from intvit.runtime.native import runtime as native_runtime
    from tests.support.fuzz_native import PATHS

    compiler = shutil.which("g++")
    if compiler is None or "avx512" not in native_runtime.supported():
        pytest.skip("the AMX path with emulated tiles needs g++ and AVX-512")
    flags = ["-std=c++17", "-O2", "-fwrapv", "-shared", "-fPIC", "-pthread", "-Wno-maybe-uninitialized", *PATHS["amx"]]
    source = native_runtime.FOLDER / "library.cpp"

    def compiled(folder: Path) -> None:
        folder.mkdir()
        subprocess.run([compiler, *flags, source, "-o", folder / "amx.so"], check=True)

    return shared_folder(tmp_path_factory, "emulated_amx", compiled)


@pytest.fixture
def emulated_amx(_emulated_amx: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the native runtime's only path during the test: AMX, with its tiles' instructions in plain C++."""
    from intvit.runtime.native import runtime as native_runtime

    monkeypatch.setattr(native_runtime, "FOLDER", _emulated_amx)
    return "amx"


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Environment and signal handlers as they were: Lightning leaves its own behind, also when a run fails."""
    environment = dict(os.environ)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and a run then ignores it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    handlers = {number: signal.getsignal(number) for number in numbers}
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
