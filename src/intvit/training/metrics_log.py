"""metrics.csv of a run folder: one row per logged step, kept across resumes.

Lightning's own CSV logger deletes the file when a run resumes.
"""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intvit.torchvision_fix import ensure_torchvision

ensure_torchvision()

from lightning_fabric.loggers.logger import rank_zero_experiment  # noqa: E402
from pytorch_lightning.loggers import Logger  # noqa: E402
from pytorch_lightning.utilities import rank_zero_only  # noqa: E402


class MetricsLog(Logger):
    """Appends to `path`; rows after the step of the checkpoint that a run resumes from are dropped first."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = ["step"]
        if path.is_file():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self._rows = [{key: value for key, value in row.items() if value} for row in reader]
                self._columns = list(reader.fieldnames or ["step"])
        self._written = len(self._rows)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsLog:
        return self

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Forget rows of steps that the resumed run will take again."""
        kept = [row for row in self._rows if int(row["step"]) < step]
        if len(kept) < len(self._rows):
            self._rows, self._written = kept, 0
            self._columns = self._columns if kept else ["step"]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row; several of one step become one. What summary.json holds, final/..., is left out."""
        shown = {key: value for key, value in metrics.items() if key != "epoch" and not key.startswith("final/")}
        values = {key: f"{float(value):.8g}" for key, value in shown.items()}
        if not values:
            return
        row_step = str(step if step is not None else len(self._rows))
        if self._rows and self._written < len(self._rows) and self._rows[-1]["step"] == row_step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": row_step, **values})
        new_columns = sorted(set(values) - set(self._columns))
        if new_columns:
            self._columns += new_columns
            self._written = 0  # the header changes: write all of it again

    @rank_zero_only
    def save(self) -> None:
        """Write what is new."""
        if self._written == len(self._rows) and self.path.is_file():
            return
        whole = self._written == 0
        with self.path.open("w" if whole else "a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if whole:
                writer.writeheader()
            writer.writerows(self._rows[self._written :])
        self._written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
