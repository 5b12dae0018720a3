"""What FINN takes of an exported program, operator by operator, and why not the rest.

Read off FINN's conversion to hardware layers and its streamlining; nothing of FINN is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """One operator of the program: the nodes that stand for it, whether FINN takes them, and as what, or why not."""

    op: str
    nodes: str
    taken: bool
    why: str


@dataclass(frozen=True)
class Row:
    """`count` operators that are placed alike."""

    placement: Placement
    count: int


def rows(placements: Sequence[Placement]) -> list[Row]:
    """Those alike joined, what FINN takes first, else in the order of the program."""
    counted = Counter(placements)
    return [Row(placement, count) for placement, count in sorted(counted.items(), key=lambda item: not item[0].taken)]
