"""Progress bars with the time left: of phases, of things counted, of bytes. All of them are made here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def progress_bar(
    *amount: ProgressColumn, note: bool = False, console: Console | None = None, transient: bool = False
) -> Progress:
    """A bar of rich: description, bar, the columns that say how much is done, time so far and time left.

    note: text at the end, the field `note` of every task; console: standard output by default; transient: it vanishes
    at its end.
    """
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(),
        *amount,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    if note:
        columns.append(TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=console, transient=transient)


def stepped(step: Callable[..., None], result: Any, amount: float = 1.0) -> Any:
    """`result`, once the bar that `step` belongs to has moved on by `amount`."""
    step(amount)
    return result


class Phases:
    """`with Phases() as phases: with phases.begin("layers", 8) as step: step()` for each of the 8 parts.

    On standard error, so that output stays clean.
    """

    def __init__(self) -> None:
        self._progress = progress_bar(TaskProgressColumn(), console=Console(stderr=True))

    def __enter__(self) -> Phases:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    @contextmanager
    def begin(self, description: str, total: float) -> Iterator[Callable[..., None]]:
        """A bar of its own; the function that it gives adds to it (1 by default)."""
        task = self._progress.add_task(f"{description:<12}", total=total)
        yield lambda amount=1.0: self._progress.advance(task, amount)


class Heartbeat:
    """A line at least every `seconds` while something goes on without a bar: what, how far, how fast, how long still.

    say: prints one line; what, unit: such as "calibrating" and "images"; total, done: in that unit.
    """

    seconds = 30.0

    def __init__(self, say: Callable[[str], None], what: str, unit: str, total: int, done: int = 0) -> None:
        self._say, self._what, self._unit, self._total, self._done = say, what, unit, total, done
        self._first, self._began = done, time.monotonic()
        self._last = self._began

    def quiet(self) -> None:
        """Another line has just been printed."""
        self._last = time.monotonic()

    def beat(self, done: int, *, images: int = 0, note: Callable[[], str] = str) -> None:
        """So much is done, from the beginning; images: of each unit, where the unit is another; note: beside it."""
        self._done, now = done, time.monotonic()
        if now - self._last < self.seconds:
            return
        self._last = now
        rate = (done - self._first) / (now - self._began)
        left = timedelta(seconds=round((self._total - done) / rate)) if rate else "?"
        speed = f"{rate * (images or 1):.1f} images/s"
        self._say(f"{self._what}, {self._unit} {done}/{self._total}{note()}, {speed}, {left} left")


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; the function that it gives adds bytes."""
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


@contextmanager
def count_progress(
    description: str, total: int, *, console: Console | None = None, transient: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar of what is named by `description`, out of `total` or fewer; the function that it gives adds some.

    transient: nothing of it stays.
    """
    with progress_bar(MofNCompleteColumn(), console=console, transient=transient) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)
        progress.update(task, total=progress.tasks[task].completed)
