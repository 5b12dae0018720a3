"""Progress bars with the time left: of the phases of a command, and of bytes.

That of phases is on standard error, so that output stays clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def stepped(step: Callable[..., None], result: Any, amount: float = 1.0) -> Any:
    """`result`, once the bar that `step` belongs to has moved on by `amount`."""
    step(amount)
    return result


class Phases:
    """`with Phases() as phases: with phases.begin("layers", 8) as step: step()` for each of the 8 parts."""

    def __init__(self, *, transient: bool = False) -> None:
        """transient: the bars vanish at the end, lest they stand between the lines of a table."""
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=transient,
        )

    def __enter__(self) -> Phases:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    @contextmanager
    def begin(self, description: str, total: float) -> Iterator[Callable[..., None]]:
        """A bar of its own; the function that it gives adds to it (1 by default)."""
        task = self._progress.add_task(description, total=total)
        yield lambda amount=1.0: self._progress.advance(task, amount)


@contextmanager
def byte_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left; the function that it gives adds bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)
