"""`intvit results FOLDER...`: finished runs side by side, what differs between them and what they reached.

intvit results outputs/* --csv results.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from intvit.arguments import new_file
from intvit.configuration import flat_identity
from intvit.errors import IntVitError
from intvit.files import write_text
from intvit.training.run_folder import CONFIG, SUMMARY, read_config

FIGURES = ("float/top1", "integer/top1", "integer/agreement")


def main(arguments: Sequence[str]) -> int:
    """Print the table, write it where --csv says."""
    parser = argparse.ArgumentParser(
        prog="intvit results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders; others are passed over")
    parser.add_argument("--sort", default="integer/top1", help="column, largest first (integer/top1)")
    parser.add_argument("--csv", type=new_file, metavar="FILE", help="write the table there as well")
    options = parser.parse_args(arguments)
    rows = results(options.folders)
    if not rows:
        raise IntVitError(f"no finished run among {len(options.folders)} folders: runs have {CONFIG} and {SUMMARY}")
    if options.sort not in (*_columns(rows), *FIGURES):
        raise IntVitError(f"--sort {options.sort}: no such column; there are {', '.join(_columns(rows))}")
    rows.sort(key=lambda row: _number(row.get(options.sort)), reverse=True)
    if options.csv is not None:
        write_csv(options.csv, rows)
    print_table(rows)
    return 0


def results(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for each finished run: the keys of its config that differ between the runs, its figures, its folder."""
    runs = [folder for folder in folders if (folder / CONFIG).is_file() and (folder / SUMMARY).is_file()]
    configs = [flat_identity(read_config(folder)) for folder in runs]
    columns = differing(configs)
    rows = []
    for folder, config in zip(runs, configs, strict=True):
        try:
            summary = json.loads((folder / SUMMARY).read_text())
            figures = {name: _figure(summary, name) for name in FIGURES}
            figures |= {name: summary[name] for name in ("steps", "seconds")}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise IntVitError(f"{folder / SUMMARY} is not what train.py writes ({type(error).__name__})") from error
        rows.append(
            {
                **{key: config.get(key) for key in columns},
                **{name: value for name, value in figures.items() if value is not None},
                "run folder": str(folder),
            }
        )
    return rows


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ, without those that a preset's name says already: constant for each GROUP.name."""
    keys = sorted({key for config in configs for key in config})

    def told_by_name(key: str) -> bool:
        name = f"{key.partition('.')[0]}.name"
        told: dict[str, set[str]] = {}
        for config in configs:
            told.setdefault(str(config.get(name)), set()).add(str(config.get(key)))
        return key != name and all(len(values) == 1 for values in told.values())

    varying = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    return sorted((key for key in varying if not told_by_name(key)), key=lambda key: not key.endswith(".name"))


def _figure(summary: Mapping[str, Any], name: str) -> float | None:
    mode, _, figure = name.partition("/")
    value = (summary.get(mode) or {}).get(figure)
    return None if value is None else round(value, 3)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows on standard output."""
    table = Table(*_columns(rows))
    for row in rows:
        table.add_row(*("" if row.get(key) is None else _cell(row[key]) for key in _columns(rows)))
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
