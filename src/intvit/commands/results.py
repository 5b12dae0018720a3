"""`intvit results FOLDER...`: finished runs side by side, what differs between them and what they reached.

intvit results outputs/* --csv results.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from intvit.commands.argument_types import new_file
from intvit.commands.console_table import print_table
from intvit.config.run_files import CONFIG
from intvit.errors import IntVitError
from intvit.sweeps.results import FIGURES, columns, number, results, write_csv
from intvit.training.run_folder import SUMMARY


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders; others are passed over")
    parser.add_argument("--sort", default="integer/top1", help="column, largest first (integer/top1)")
    parser.add_argument("--csv", type=new_file, metavar="FILE", help="write the table there as well")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Print the table, write it where --csv says."""
    options = parser().parse_args(arguments)
    if missing := next((folder for folder in options.folders if not folder.exists()), None):
        raise IntVitError(f"{missing}: no such folder")
    rows = results(options.folders)
    if not rows:
        known = f"runs have {CONFIG} and {SUMMARY}; name their folders, such as outputs/*"
        raise IntVitError(f"no finished run among {len(options.folders)} folders: {known}")
    if options.sort not in (*columns(rows), *FIGURES):
        raise IntVitError(f"--sort {options.sort}: no such column; there are {', '.join(columns(rows))}")
    rows.sort(key=lambda row: number(row.get(options.sort)), reverse=True)
    if options.csv is not None:
        write_csv(options.csv, rows)
    print_table(rows)
    return 0
