"""The rows of a range certificate: what operators may reach for any image, those alike joined. No image is run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from intvit.program import OperatorBounds, Program
from intvit.program.interval_arithmetic import Range


@dataclass(frozen=True)
class Row:
    """One operator, or several alike, of the table. `reached`: the outputs on the images that were given."""

    name: str
    op: str
    count: int
    accumulator: Range | None
    widest: tuple[str, Range] | None
    output: Range
    reached: Range | None


def rows(program: Program, proven: dict[str, OperatorBounds], reached: dict[str, Range], *, joined: bool) -> list[Row]:
    """Rows of the operators that compute (data movement is left out); `joined`: one for all layers of a kind."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, entry in proven.items():
        if entry.intermediates:
            key = re.sub(r"\.\d+(?=\.|$)", ".*", name) if joined else name
            groups.setdefault((key, entry.op), []).append(name)
    result = []
    for (key, op), names in groups.items():
        entries = [proven[name] for name in names]
        accumulators = [entry.accumulator for entry in entries if entry.accumulator]
        widest = max((entry.widest for entry in entries if entry.widest), key=lambda item: item[1].bits)
        outputs = [Range(*entry.output.extremes()) for entry in entries]
        seen = [reached[name] for name in names if name in reached]
        result.append(Row(key, op, len(names), _hull(accumulators), widest, _hull(outputs) or outputs[0], _hull(seen)))
    return result


def _hull(ranges: list[Range]) -> Range | None:
    if not ranges:
        return None
    return Range(min(r.low for r in ranges), max(r.high for r in ranges), ranges[0].width)
