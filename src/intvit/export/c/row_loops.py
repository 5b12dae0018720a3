"""Steps that follow each other row by row become loops, so that what passes between them is a few rows long.

A hidden layer of 197 x 768 then takes 8 x 768 bytes. Legal where every buffer that one step of a loop writes and
another reads or writes is seen by both as the same rows. Of all legal ways to cut a run of such steps into loops, the
one with the least memory at once is taken, and of those one with the fewest loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from intvit.export.c.steps import ROWS, AnyStep, Argument, RowLoop, Step
from intvit.runtime.plan import ExecutionPlan


def join_rows(plan: ExecutionPlan[AnyStep]) -> None:
    """Puts loops in the place of the plan's steps, and shrinks the buffers that live inside one loop alone."""
    plan.steps[:] = _Joining(plan).result()


class _Joining:
    """`lives`: the first and the last step that uses a buffer of the arena."""

    def __init__(self, plan: ExecutionPlan[AnyStep]) -> None:
        self.buffers, self.steps = plan.buffers, [step for step in plan.steps if isinstance(step, Step)]
        self.lives: dict[int, tuple[int, int]] = {}
        for index, step in enumerate(self.steps):
            for number in {tensor.buffer for tensor in step.tensors} - {plan.input, plan.output}:
                if plan.buffers[number].data is None:
                    self.lives[number] = (self.lives.get(number, (index, 0))[0], index)

    def result(self) -> list[AnyStep]:
        joined: list[AnyStep] = []
        for start, stop in self.runs():
            for first, end in self.cut(start, stop):
                joined.append(self.steps[first] if end - first == 1 else self.loop(first, end))
        return joined

    def loop(self, first: int, end: int) -> RowLoop:
        steps, rows = self.steps[first:end], self.steps[first].rows
        local = {number for number in self.lives if self.is_local(number, first, end)}
        for number in local:
            self.buffers[number].size = self.buffers[number].size // rows * ROWS
        self.share_scratch(steps)
        return RowLoop(steps, rows, local)

    def runs(self) -> list[tuple[int, int]]:
        """First step and end of the longest runs of steps that can be one loop."""
        runs: list[tuple[int, int]] = []
        for index, step in enumerate(self.steps):
            if runs and all(_joins(other, step) for other in self.steps[runs[-1][0] : index]):
                runs[-1] = (runs[-1][0], index + 1)
            else:
                runs.append((index, index + 1))
        return runs

    def cut(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The loops of a run, as first step and end."""
        best: dict[int, tuple[int, int, list[tuple[int, int]]]] = {start: (0, 0, [])}  # end -> bytes, loops, the loops
        for end in range(start + 1, stop + 1):
            options = []
            for first in range(start, end):
                size, count, loops = best[first]
                options.append((max(size, self.bytes(first, end)), count + 1, [*loops, (first, end)]))
            best[end] = min(options, key=lambda option: option[:2])
        return best[stop][2]

    def bytes(self, first: int, end: int) -> int:
        """Bytes in use while the steps run as one loop (as a step, if it is one)."""
        columns = _scratch_columns(self.steps[first:end])
        total = sum(max(self.buffers[number].size for number in column) for column in columns)
        for number in self.lives.keys() - {number for column in columns for number in column}:
            begin, last = self.lives[number]
            if begin < end and last >= first:
                local = end - first > 1 and self.is_local(number, first, end)
                size = self.buffers[number].size
                total += size // self.steps[first].rows * ROWS if local else size
        return total

    def is_local(self, number: int, first: int, end: int) -> bool:
        """Whether the buffer lives in these steps alone, which go through it by whole rows."""
        if self.lives[number][0] < first or self.lives[number][1] >= end:
            return False
        rows = self.steps[first].rows
        uses = [a for step in self.steps[first:end] for a in step.arguments if a.tensor.buffer == number]
        return all(a.row and a.tensor.offset < a.row and a.row * rows == a.tensor.whole.size for a in uses)

    def share_scratch(self, steps: Sequence[Step]) -> None:
        """The same scratch memory for all steps of a loop: only one of them runs at a time."""
        place: dict[int, int] = {}
        for column in _scratch_columns(steps):
            place |= dict.fromkeys(column, max(column, key=lambda number: self.buffers[number].size))
        for step in steps:
            for index, argument in enumerate(step.arguments):
                if argument.tensor.buffer in place:
                    moved = replace(argument.tensor, buffer=place[argument.tensor.buffer])
                    step.arguments[index] = replace(argument, tensor=moved)


def _joins(a: Step, b: Step) -> bool:
    same = a.rows == b.rows > ROWS
    return same and all(_independent(x, y) or _same_rows(x, y) for x in a.arguments for y in b.arguments)


def _independent(a: Argument, b: Argument) -> bool:
    return a.tensor.buffer != b.tensor.buffer or not (a.written or b.written)


def _same_rows(a: Argument, b: Argument) -> bool:
    """Row r of both lies in the same stretch of the buffer, for every r."""
    sizes = a.tensor.dtype.itemsize, b.tensor.dtype.itemsize
    if not a.row or not b.row or a.row * sizes[0] != b.row * sizes[1]:
        return False
    return a.tensor.offset // a.row == b.tensor.offset // b.row


def _scratch_columns(steps: Sequence[Step]) -> list[list[int]]:
    """The first scratch buffers of all steps, then the second ones, ...: written, and not row by row."""
    each = [[a.tensor.buffer for a in step.arguments if a.written and not a.row and step.rows] for step in steps]
    return [[row[i] for row in each if len(row) > i] for i in range(max(map(len, each), default=0))]
