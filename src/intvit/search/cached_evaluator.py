"""Measurements in several processes, each kept in a journal as it ends: a search started again looks them up.

The search itself is a function of the measurements alone, so that it comes to the same end however often it was
interrupted and however many processes measured.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from intvit.errors import IntVitError
from intvit.processes import end_with_parent
from intvit.search.budget import Usage
from intvit.search.evaluator import Candidate, Evaluator, Measurement

JOURNAL = "measurements.jsonl"


class Journal:
    """One JSON line for each measurement behind a first line of settings. A line that a kill cut short is dropped."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, fresh: bool) -> None:
        """Raises IntVitError where the file was begun with other settings."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.held: dict[str, Measurement] = {}
        whole = b"" if fresh or not path.exists() else path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                content = json.loads(line)
                if number == 1:
                    before = dict(content["settings"])
                else:
                    self.held[content["key"]] = _measurement(content["measurement"])
            except (ValueError, KeyError, TypeError):
                raise IntVitError(
                    f"{path}: line {number} is no measurement; name another --out, or start over with --fresh"
                ) from None
        if whole:
            _compare(path.parent, before, json.loads(json.dumps(settings)))
        self._file = path.open("r+b" if path.exists() else "wb")
        self._file.truncate(len(whole))
        self._file.seek(0, os.SEEK_END)
        if not whole:
            self._write({"settings": settings})

    def add(self, key: str, measurement: Measurement) -> None:
        """Keep a measurement, also if the machine fails the next moment."""
        self.held[key] = measurement
        self._write({"key": key, "measurement": asdict(measurement)})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _measurement(values: Mapping[str, Any]) -> Measurement:
    return Measurement(**{**values, "used": Usage(**values["used"])})


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise IntVitError(
                f"{folder} holds a search with {key} {before.get(key)}, not {now.get(key)}; "
                "name another --out, or start over with --fresh"
            )


class CachedEvaluator:
    """An evaluator, in one process or several, that measures only what the journal does not hold."""

    def __init__(self, evaluator: Evaluator, journal: Journal, pool: Executor | None) -> None:
        self.evaluator, self._journal, self._pool = evaluator, journal, pool
        self.count = 0  # measured by this process, not looked up

    def measure(
        self,
        candidates: Sequence[Candidate],
        first: int,
        count: int,
        step: Callable[..., None] = lambda: None,
        against: Candidate | None = None,
    ) -> list[Measurement]:
        """Every candidate on `count` images from number `first` on; each one calls `step` at its end."""
        other = None if against is None else [against.preset, against.overrides]
        keys = [json.dumps([candidate.preset, candidate.overrides, first, count, other]) for candidate in candidates]
        missing = {
            key: candidate for key, candidate in zip(keys, candidates, strict=True) if key not in self._journal.held
        }
        for _ in range(len(keys) - len(missing)):
            step()
        for key, measurement in self._measured(missing, first, count, against):
            self._journal.add(key, measurement)
            self.count += 1
            step()
        return [self._journal.held[key] for key in keys]

    def _measured(self, candidates: Mapping[str, Candidate], *how: Any) -> Iterator[tuple[str, Measurement]]:
        if self._pool is None:
            yield from ((key, self.evaluator.measure(candidate, *how)) for key, candidate in candidates.items())
            return
        keys: dict[Future[Measurement], str] = {
            self._pool.submit(_measure, candidate, *how): key for key, candidate in candidates.items()
        }
        try:
            for future in as_completed(keys):
                yield keys[future], future.result()
        except BrokenProcessPool:
            raise IntVitError(
                "a worker process was killed, perhaps for want of memory; the same command goes on, --jobs may be fewer"
            ) from None


_evaluator: Evaluator  # of a worker process


@contextmanager
def workers(evaluator: Evaluator, jobs: int) -> Iterator[Executor | None]:
    """A pool of processes that hold a copy of the evaluator; None for one job, which needs none."""
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # forked children of a process with threads may hang
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(evaluator, threads)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(evaluator: Evaluator, threads: int) -> None:
    global _evaluator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the search, which ends its workers
    if sys.platform == "linux":
        end_with_parent()
    torch.set_num_threads(threads)
    _evaluator = evaluator


def _measure(candidate: Candidate, *how: Any) -> Measurement:
    return _evaluator.measure(candidate, *how)
