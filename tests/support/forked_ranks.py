"""Ranks as processes forked from one that has imported everything, with what torchrun would tell them.

Tests that call it stand in the xdist group `ranks`: the imports take seconds, and one worker does them once.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def run_ranks(target: Callable[..., Any], *arguments: Any, ranks: int = 2, log: Path, limit: float = 60.0) -> list[int]:
    """Exit codes of `target(rank, *arguments)` on every rank, negative for signals; their output goes to `log`.

    As torchrun does, the first rank that fails ends the others. More than `limit` seconds are an AssertionError.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": "test",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    context = multiprocessing.get_context("forkserver")  # torch hangs in a fork of a process that has trained
    context.set_forkserver_preload(["tests.support.tiny_runs"])
    processes = [
        context.Process(
            target=_rank,
            args=({**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log, target, (rank, *arguments)),
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + limit
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            time.sleep(1.0)  # for the others to notice by themselves
            for process in processes:
                process.terminate()
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
            raise AssertionError(f"ranks hang after {limit} s:\n{log.read_text()}")
        time.sleep(0.05)
    return [process.exitcode or 0 for process in processes]


def _rank(environment: dict[str, str], log: Path, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    target(*arguments)
