"""`intvit models`: every name of timm's VisionTransformers and SwinTransformers, in floats and in integers.

Each is built with two blocks, 4 x 4 patches and random weights: its outputs are compared with timm's, then it is
calibrated, exported and run on the runtimes. A name that ours do not compute is listed with the reason.

intvit models --write docs/models.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from intvit.errors import IntVitError
from intvit.evaluation.timm_names import LIMIT, CheckedName, check_name, table
from intvit.models.timm_models import timm_names
from intvit.progress import count_progress
from intvit.runtime import RUNTIMES

BEGIN, END = "<!-- timm's names: begin -->\n", "<!-- timm's names: end -->\n"


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help="names of timm (default: all)")
    parser.add_argument("--quant", default="lut8", help="an integer preset (lut8), with overrides after commas")
    runtimes = ["torch", "numpy", "native"]
    parser.add_argument("--runtimes", nargs="+", default=runtimes, help=f"of {', '.join(RUNTIMES)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks of a Markdown file")
    return parser


def main(arguments: list[str]) -> int:
    """Print or write the table; exit code 1 if a name differs from timm or among the runtimes."""
    options = parser().parse_args(arguments)
    text = "" if options.write is None else _marked(options.write)
    names = options.name or timm_names()
    rows = []
    with count_progress("names", len(names), console=Console(stderr=True), transient=True) as step:
        for name in names:
            rows.append(check_name(name, options.quant, options.runtimes))
            step(1)
    summary = _summary(rows)
    if options.write is None:
        print(table(rows))
    else:
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}{summary}\n\n{table(rows)}{END}{after}")
    print(summary)
    return 1 if any(row.wrong for row in rows) else 0


def _marked(path: Path) -> str:
    """The text of a file that has the marks. Raises IntVitError."""
    text = path.read_text() if path.is_file() else ""
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise IntVitError(f"--write {path}: no file with the lines {BEGIN.strip()} and {END.strip()}")
    return text


def _summary(rows: list[CheckedName]) -> str:
    refused, wrong = sum(row.refused is not None for row in rows), sum(row.wrong for row in rows)
    right = len(rows) - refused - wrong
    text = f"{right} of {len(rows)} names: floats within {LIMIT:.0e} of timm's, equal integers; {refused} refused"
    return f"{text}, {wrong} wrong"
