"""`intvit analyze silicon FOLDER ...`: what the operators of integer checkpoints take on an FPGA.

For every kind of operator the size of a unit of `intvit export rtl` (LUTs, registers, multipliers and memories of a
7-series FPGA) and the lanes that a frame rate needs, as trained and with small functions as tables. Sizes come from a
table that ships with the package; --synthesize makes them anew with yosys, of the kinds that the checkpoints have. With
the file that `intvit bench presets --json` wrote, checkpoints whose folders bear the name of a preset (of a preset with
overrides: its text with _ for every mark) stand beside its accuracy.
Writes report.html with all tables and plots.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

from intvit.analysis.silicon import Key, Size, needs, synthesize
from intvit.analysis.silicon_sizes import SIZES, WIDTHS
from intvit.analysis.silicon_widths import synthesize_widths
from intvit.commands.argument_types import positive
from intvit.commands.model_options import out_option
from intvit.errors import IntVitError
from intvit.program import load_checkpoint
from intvit.reports.report import Report
from intvit.reports.silicon_page import Model, findings, parts


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit analyze silicon", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="integer checkpoints")
    out_option(parser, "folder of the report")
    parser.add_argument("--frames", type=positive, default=100, metavar="N", help="images a second (default 100)")
    parser.add_argument("--clock", type=positive, default=150, metavar="MHZ", help="of the units (default 150)")
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="of intvit bench presets --json")
    parser.add_argument("--synthesize", action="store_true", help="sizes anew, with yosys; minutes")
    return parser


def main(arguments: list[str]) -> int:
    """Writes the page and says what it found."""
    options, began = parser().parse_args(arguments), time.perf_counter()
    names = [_name(folder) for folder in options.folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise IntVitError(f"two checkpoints are called {twice}, and the page would hold one: rename a folder")
    programs = {name: load_checkpoint(folder) for name, folder in zip(names, options.folders, strict=True)}
    accuracy = _accuracy(options.accuracy) if options.accuracy else {}
    sizes: dict[Key, Size] = dict(SIZES)
    widths = WIDTHS
    if options.synthesize:
        sizes |= synthesize(list(programs.values()))
        widths = synthesize_widths()
    models = []
    for name, program in programs.items():
        for table in (False, True):
            found = needs(program, sizes, table=table, frames=options.frames, clock=options.clock * 1e6)
            models.append(Model(name, table, found, accuracy.get(name, {})))
    report = Report("Operators on silicon", shlex.join(["intvit", "analyze", "silicon", *arguments]))
    report.facts["rate"] = f"{options.frames} images a second, {options.clock} MHz"
    report.findings, report.parts = findings(models), parts(models, sizes, widths)
    print(report.finish(options.out, None, began))
    return 0


def _name(folder: Path) -> str:
    """Of a checkpoint: its folder's, or, of RUN/integer, the run's."""
    whole = folder.absolute()
    return whole.parent.name if whole.name == "integer" else whole.name


def _accuracy(file: Path) -> dict[str, dict[str, Any]]:
    """Preset -> figures of the first image set."""
    try:
        rows = json.loads(file.read_text())["rows"]
        return {re.sub(r"\W+", "_", row["preset"]): next(iter(row["sets"].values())) for row in rows}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise IntVitError(f"--accuracy {file} is no file of intvit bench presets --json: {error}") from error
