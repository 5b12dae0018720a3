"""A report: tables and plots on one self-contained HTML page, as CSV and PNG beside it, and in Weights & Biases.

The page needs no network: plots are inside it, and sorting a table is a few lines of JavaScript in report.html.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from intvit.files import write_bytes, write_text
from intvit.reports.style import png
from intvit.training.config import WandbConfig

PAGE = "report.html"


@dataclass(frozen=True)
class Column:
    """One column: key of the rows, heading, how numbers are written (a format specification), an explanation."""

    key: str
    heading: str
    form: str = ""
    meaning: str = ""
    page: bool = True  # False: in the CSV file alone

    def text(self, value: Any) -> str:
        """The cell as people read it."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if isinstance(value, str | Mapping):
            return value if isinstance(value, str) else json.dumps(value)
        return format(value, self.form)


@dataclass
class Table:
    """Rows under columns; `name` is that of the CSV file, `plot` the name of the plot that shows it."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    text: str = ""
    plot: str | None = None

    @property
    def shown(self) -> list[Column]:
        """Columns of the page."""
        return [column for column in self.columns if column.page]

    def csv(self) -> str:
        """Every value in full, keys as header; mappings as JSON."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.rows:
            writer.writerow([_plain(row[column.key]) for column in self.columns])
        return buffer.getvalue()


@dataclass
class Plot:
    """A figure; `name` is that of the PNG file, `table` the name of the table that it shows."""

    name: str
    title: str
    figure: Figure
    text: str = ""
    table: str | None = None

    def __post_init__(self) -> None:
        self.png = png(self.figure)

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass
class Report:
    """Sentences that sum it up, figures of note, and parts in the order of the page."""

    title: str
    command: str
    findings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    parts: list[Table | Plot] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def plots(self) -> list[Plot]:
        return [part for part in self.parts if isinstance(part, Plot)]

    def write(self, folder: Path) -> Path:
        """Write report.html, NAME.csv of every table and NAME.png of every plot; returns the page's path."""
        for table in self.tables:
            write_text(folder / f"{table.name}.csv", table.csv())
        for plot in self.plots:
            write_bytes(folder / f"{plot.name}.png", plot.png)
        write_text(folder / PAGE, self.html())
        return folder / PAGE

    def html(self) -> str:
        """The page."""
        loader = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.tests["table"] = lambda part: isinstance(part, Table)
        environment.filters |= {"sortable": _sortable, "breakable": _breakable}
        return environment.get_template(PAGE).render(report=self)

    def finish(self, folder: Path, wandb: WandbConfig | None, began: float) -> str:
        """Add time since `began` (of time.perf_counter) and peak memory; write, log to W&B if it is given.

        Returns what the command says: the findings, and where the page is.
        """
        self.facts |= {
            "time": f"{time.perf_counter() - began:.0f} s",
            "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB",
        }
        page = self.write(folder)
        if wandb is not None:
            self.log_wandb(wandb, folder)
        return "\n".join([*self.findings, f"{page}: {self.facts['time']}, {self.facts['peak memory']}"])

    def log_wandb(self, config: WandbConfig, folder: Path) -> None:
        """The same tables and plots as one run of job type `analysis`; its files go under `folder`."""
        import wandb

        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=self.title,
            job_type="analysis",
            dir=folder,
            mode="offline" if config.offline else None,  # None: what WANDB_MODE says
            config={"command": self.command, **self.facts},
            settings=wandb.Settings(silent=True),
        )
        tables = {table.name: _wandb_table(table) for table in self.tables}
        plots = {plot.name: wandb.Image(str(folder / f"{plot.name}.png"), caption=plot.title) for plot in self.plots}
        run.log({**tables, **plots})
        run.summary["findings"] = self.findings
        run.finish()


def _wandb_table(table: Table) -> Any:
    import wandb

    rows = [[_plain(row[column.key]) for column in table.columns] for row in table.rows]
    return wandb.Table(columns=[column.key for column in table.columns], data=rows, allow_mixed_types=True)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping) else value


def _breakable(text: str) -> Markup:
    """Names may go on in the next line behind a dot or an underscore that a letter follows."""
    return Markup(re.sub(r"([._])(?=[A-Za-z])", r"\1<wbr>", str(escape(text))))


def _sortable(value: Any) -> Any:
    """What the page's script compares: empty for nothing, infinity as JavaScript writes it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).replace("inf", "Infinity") if isinstance(value, float) else _plain(value)
