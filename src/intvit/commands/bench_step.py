"""`intvit bench step`: what a step of quantization-aware training sends to its device, counted without one.

A whole step (forward, loss, backward, AdamW, averages, ranges) runs on tensors without values: reading one on the host,
for which a GPU would wait, is an error. Views count for nothing; what derives the integers is one CUDA graph.
"""

from __future__ import annotations

import argparse
from typing import Any

from intvit.bench.device_step import DeviceStep, audit
from intvit.commands.argument_types import image_size_option, new_file, positive
from intvit.config.presets import presets
from intvit.files import write_json


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(prog="intvit bench step", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--quant", nargs="+", default=presets("quant"), help="presets; all")
    parser.add_argument("--batch", type=positive, default=256)
    image_size_option(parser)
    parser.add_argument("--teacher", action="store_true", help="with a float teacher")
    parser.add_argument("--kinds", action="store_true", help="also the operators by name")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Count, print the table, optionally write JSON."""
    options = parser().parse_args(arguments)
    rows: list[dict[str, Any]] = []
    print(f"{options.model}, batch {options.batch}, {'x'.join(map(str, options.image_size))} px")
    print(f"{'':<16}{'operators':>10}{'derivation':>12}{'operands GB':>13}{'host copies':>13}{'host reads':>12}")
    for quant in options.quant:
        found = audit(DeviceStep(options.model, quant, options.batch, options.image_size, options.teacher))
        rows.append({"quant": quant, **vars(found), "kinds": dict(found.kinds)})
        print(
            f"{quant:<16}{found.operators:>10}{found.derivation:>12}{found.gigabytes:>13.1f}{len(found.copies):>13}{0:>12}"
        )
        if options.kinds:
            print("\n".join(f"    {count:>5} {kind}" for kind, count in found.kinds.most_common()))
    if options.json:
        write_json(options.json, {"settings": vars(options) | {"json": str(options.json)}, "rows": rows})
    return 0
