"""`intvit bench train`: what a step of quantization-aware training costs beside a float step.

Float is this package's own model in float mode: eager, with fused attention. Steps (forward, loss, backward, AdamW)
of all variants are interleaved; medians and ratios are reported, because machines drift.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from intvit.bench.train import TrainSettings, measure
from intvit.commands.argument_types import image_size_option, new_file, positive, threads
from intvit.files import write_json


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(prog="intvit bench train", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--batch", type=positive, default=8)
    image_size_option(parser)
    parser.add_argument("--threads", type=threads, default=torch.get_num_threads())
    parser.add_argument("--quant", nargs="+", default=["ivit8", "lut8"], help="presets to compare with float")
    parser.add_argument("--eager-only", action="store_true", help="leave out the compiled variants")
    parser.add_argument("--steps", type=positive, default=15, help="timed steps of each variant")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, print the table, optionally write JSON."""
    options = parser().parse_args(arguments)
    settings = TrainSettings(
        options.model,
        options.batch,
        options.image_size,
        options.threads,
        tuple(options.quant),
        not options.eager_only,
        options.steps,
    )
    rows = measure(settings)
    _print(rows, settings)
    if options.json:
        write_json(options.json, {"settings": vars(settings), "rows": rows})
    return 0


def _print(rows: list[dict[str, Any]], settings: TrainSettings) -> None:
    size = "x".join(map(str, settings.image_size))
    print(
        f"{settings.model}, batch {settings.batch}, {size} px, {settings.threads} threads, "
        f"{settings.steps} interleaved steps, torch {torch.__version__}"
    )
    print(f"{'':<16}{'wall ms':>9}{'ratio':>7}{'CPU ms':>9}{'ratio':>7}{'saved MiB':>11}{'ratio':>7}{'peak MiB':>10}")
    for row in rows:
        print(
            f"{row['name']:<16}{row['wall_ms']:>9.0f}{row['wall_ratio']:>7.2f}{row['cpu_ms']:>9.0f}"
            f"{row['cpu_ratio']:>7.2f}{row['saved_mib']:>11.1f}{row['saved_ratio']:>7.2f}{row['peak_mib']:>10.0f}"
        )
