"""Tables for people on standard output that several commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from intvit.sweeps.results import columns


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows on standard output."""
    table = Table(*columns(rows))
    for row in rows:
        table.add_row(*("" if row.get(key) is None else _cell(row[key]) for key in columns(rows)))
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
