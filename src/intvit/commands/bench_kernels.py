"""`intvit bench kernels`: the cuda runtime's kernels for a model, or those of training, compiled without a GPU.

For each kernel of the model's program and each architecture: steps that launch it, registers of a thread, instructions
that spill registers, bytes of shared memory, instructions, and the tensor cores' instruction of its product. Exit code
1 where a kernel spills, or a product is not on tensor cores. A first run takes a minute; Triton keeps what it compiled.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from intvit.bench.kernels import ARCHITECTURES, compile_all, compile_training, wanting
from intvit.bench.runtime import RuntimeSettings, models
from intvit.commands.argument_types import new_file, positive
from intvit.commands.console_table import print_table
from intvit.files import write_json
from intvit.models import MODELS


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit bench kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s", choices=MODELS)
    parser.add_argument("--quant", default="ivit8", help="preset of the integer program, with overrides after commas")
    parser.add_argument("--batch", type=positive, default=128, help="images; decides the tiles")
    parser.add_argument(
        "--arch",
        type=int,
        choices=[80, 86, 89, 90],
        nargs="+",
        default=list(ARCHITECTURES),
        help="compute capabilities times ten (default: 80 90)",
    )
    parser.add_argument("--training", action="store_true", help="those of a step of DeiT-S with 256 images")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Compile, print the table, optionally write JSON."""
    options = parser().parse_args(arguments)
    if options.training:
        figures = list(compile_training(options.arch))
    else:
        _, program, _ = models(RuntimeSettings(options.model, options.quant, batch=1, threads=1, rounds=1))
        figures = list(compile_all(program, options.batch, options.arch))
    rows = [asdict(row) for row in figures]
    print_table(rows)
    if options.json:
        write_json(options.json, {"model": options.model, "quant": options.quant, "kernels": rows})
    problems = [problem for row in figures for problem in wanting(row)]
    for problem in problems:
        print(problem)
    return int(bool(problems))
