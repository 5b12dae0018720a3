"""`intvit check MODEL`: a model of full size with random weights, exported, and run on several runtimes.

MODEL is one of ours, or timm's name of a VisionTransformer or SwinTransformer.

Prints what the integer program is made of and the images whose scores differ between the trained model in eval mode
and the runtimes on the saved checkpoint. Exit code 1 unless there are none.
"""

from __future__ import annotations

import argparse
import time

from intvit.commands.argument_types import at_least, image_size, model_name, positive
from intvit.evaluation.check import check_model
from intvit.models import MODELS
from intvit.runtime import RUNTIMES


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", type=model_name, metavar="MODEL", nargs="+", help=f"{', '.join(MODELS)}, or timm's name"
    )
    parser.add_argument("--quant", default="lut8", help="an integer preset (lut8), with overrides after commas")
    parser.add_argument("--runtimes", nargs="+", choices=sorted(RUNTIMES), default=["torch", "numpy"])
    parser.add_argument("--images", type=positive, default=2, help="random images to run (default 2)")
    parser.add_argument(
        "--image-size", type=image_size, metavar="N|HxW", help="pixels (default: the model's own, 224 of ours)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights and images (default 0)")
    return parser


def main(arguments: list[str]) -> int:
    """Check the models in turn, a row each, then one line with the number of mismatches."""
    options = parser().parse_args(arguments)
    columns = ("parameters", "integer bytes", "operators", "integer MACs", "mismatches", "seconds")
    print(f"{'model':<36}" + "".join(f"{column:>15}" for column in columns), flush=True)
    total = sum(_check(name, options) for name in options.model)
    print(f"{total} mismatches")
    return 1 if total else 0


def _check(name: str, options: argparse.Namespace) -> int:
    start = time.perf_counter()
    found = check_model(name, options.quant, options.image_size, options.images, options.runtimes, options.seed)
    figures = (found.parameters, found.stored_bytes, found.operators, found.macs, found.mismatches)
    seconds = time.perf_counter() - start
    print(f"{name:<36}" + "".join(f"{figure:>15,}" for figure in figures) + f"{seconds:>15.0f}", flush=True)
    return found.mismatches
