"""Finished runs side by side: what differs between them and what they reached."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intvit.config.identity import flat_identity
from intvit.config.run_files import CONFIG, read_config
from intvit.errors import IntVitError
from intvit.files import write_text
from intvit.training.run_folder import SUMMARY

FIGURES = ("float/top1", "integer/top1", "float/miou", "integer/miou", "integer/agreement")


def results(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One row for each finished run: the keys of its config that differ between the runs, its figures, its folder."""
    runs = [folder for folder in folders if (folder / CONFIG).is_file() and (folder / SUMMARY).is_file()]
    configs = [flat_identity(read_config(folder)) for folder in runs]
    keys = differing(configs)
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
                **{key: config.get(key) for key in keys},
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
    return None if value is None or not math.isfinite(value) else round(value, 3)


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -math.inf


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
