"""Tests of Triton kernels where there is no GPU: their bodies run in a process of their own, whose Triton interprets.

Triton decides when it is imported, by an environment variable, whether kernels are compiled or interpreted. Tests of
everything else share this process and must not meet interpreted kernels.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

VARIABLE = "TRITON_INTERPRET"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """function(**arguments) on the GPU in this process, or else interpreted in another; skips without triton."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (pip install 'intvit[cuda]')")
    if torch.cuda.is_available():
        function(**arguments)
        return
    if reason := _process().submit(_called, function.__module__, function.__qualname__, arguments).result():
        pytest.skip(reason)


def _called(module: str, name: str, arguments: dict[str, Any]) -> str:
    """Runs the function; the reason if it skips."""
    try:
        getattr(import_module(module), name)(**arguments)
    except pytest.skip.Exception as skipped:
        return str(skipped)
    return ""


@cache
def _process() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "1")
        pool.submit(_started, torch.get_num_threads()).result()
    return pool


def _started(threads: int) -> None:
    torch.set_num_threads(threads)
    assert os.environ[VARIABLE] == "1"
