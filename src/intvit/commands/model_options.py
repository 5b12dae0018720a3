"""Options of the commands that look at a model: which one, calibrated how, and where the pages go."""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.analysis.analyzed_model import ModelSource
from intvit.commands.argument_types import at_least, new_folder, positive
from intvit.data.calibration_photos import PHOTOS_OF
from intvit.errors import IntVitError
from intvit.models import MODELS
from intvit.quant.config import OPERAND_BITS


def model_options(parser: argparse.ArgumentParser, calibration_images: int = 64) -> None:
    """What a `ModelSource` holds beside the checkpoint, the preset and the validation images."""
    parser.add_argument("--model", choices=MODELS, metavar="NAME", help="of a weights file (deit_t)")
    parser.add_argument("--calibration", metavar="DIR", help="folder with train-*.tar (default: the run's own data)")
    parser.add_argument(
        "--calibration-images",
        type=positive,
        default=calibration_images,
        metavar="N",
        help=f"default {calibration_images}",
    )

    parser.add_argument(
        "--photos",
        choices=list(PHOTOS_OF),
        help="for calibration, as data.calibration_photos (default: as the run; of a weights file: center)",
    )


def preset_option(parser: argparse.ArgumentParser) -> None:
    """The preset of a weights file."""
    parser.add_argument("--quant", metavar="PRESET", help="of a weights file, overrides after commas (lut8)")


def model_source(options: argparse.Namespace, quant: str | None, data: str | None = None) -> ModelSource:
    """Of `options.checkpoint` and what `model_options` read. data: folder with val-*.tar instead of the run's.

    Raises IntVitError for options of a weights file beside a run, which has a model and a preset of its own.
    """
    source = ModelSource(
        options.checkpoint,
        options.model or "deit_t",
        quant or "lut8",
        options.calibration,
        options.calibration_images,
        data,
        options.photos,
    )
    given = [option for option in ("model", "quant") if getattr(options, option, None) is not None]
    if given and not source.is_weights and Path(options.checkpoint).exists():
        raise IntVitError(
            f"--{given[0]} is for a weights file; {options.checkpoint} is a run and has its own: leave it out"
        )
    return source


def out_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--out DIR`."""
    parser.add_argument("--out", type=new_folder, required=True, metavar="DIR", help=meaning)


several = at_least(2)  # images, so that they have a standard error


def width(text: str) -> int:
    """The argument as a width that operands of a matrix product may have."""
    low, high = OPERAND_BITS
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text}: expected a width from {low} to {high}")
    return int(text)
