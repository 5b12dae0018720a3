"""`intvit bench gpu`: what is to be seen on a GPU, part by part: equal integers, time and memory of a step, inference.

kernels: every operator of a training step equals plain torch. derivations: the integers of every preset equal the
CPU's, by a CUDA graph, too. runtime, model: the integers of numpy's runtime. step: time, memory and launches beside a
float step; nothing waits for the device. inference: `intvit bench runtime --device cuda`. ranks: two GPUs equal one.

OUT/PART.json is written row by row, OUT/table.md at the end from all that is there. Without a GPU, what a CPU can do
runs at reduced size (with TRITON_INTERPRET=1 the kernels, too). Exit code 1 where a part failed.
launch/gpu_check.sh runs every part in a process of its own, with a time limit.
"""

from __future__ import annotations

import argparse

from intvit.bench.gpu.parts import PARTS, check
from intvit.commands.argument_types import new_folder


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--out", type=new_folder, required=True, help="folder of the reports")
    return parser


def main(arguments: list[str]) -> int:
    """Run the parts and print the table."""
    options = parser().parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser().error(f"no part of that name: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    good, table = check(options.parts or list(PARTS), options.out)
    print(table, end="")
    return 0 if good else 1
