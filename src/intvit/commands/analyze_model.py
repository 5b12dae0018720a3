"""`intvit analyze model CKPT`: where a model loses accuracy to integers, what each change would do, and its cost.

CKPT is a run of train.py (folder or .ckpt), analyzed with its own ranges and data, or a weights file with timm's key
names, calibrated with --quant on images of --calibration. Writes report.html with all tables and plots, each as CSV
or PNG beside it. A row of sensitivity.csv holds the quant.overrides entry that it measured.
"""

from __future__ import annotations

import argparse
import time

from intvit.analysis.analyzed_model import BATCH, open_calibrated
from intvit.analysis.block_cache import blocks
from intvit.analysis.layer_error import layer_errors
from intvit.analysis.sensitivity import Sensitivity, changes
from intvit.commands.argument_types import positive
from intvit.commands.family_option import family_option, listed_families
from intvit.commands.model_options import model_options, model_source, out_option, preset_option, width
from intvit.progress import Phases, stepped
from intvit.reports.model_page import model_report
from intvit.training.config import logger_config


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit analyze model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="run folder, .ckpt, or weights (.safetensors, .pth)")
    out_option(parser, "folder of the report")
    model_options(parser)
    preset_option(parser)
    parser.add_argument("--data", metavar="DIR", help="folder with val-*.tar (default: the run's own data)")
    parser.add_argument("--images", type=positive, default=64, metavar="N", help="images to measure on (default 64)")
    parser.add_argument(
        "--sensitivity-images", type=positive, default=16, metavar="N", help="of these, for each change (default 16)"
    )
    parser.add_argument(
        "--bits", type=width, nargs="+", default=[4], metavar="B", help="widths of weights and activations to try"
    )
    family_option(parser)
    parser.add_argument("--logger", default="csv", help="csv, or wandb with overrides: wandb,logger.wandb.offline=true")
    return parser


def main(arguments: list[str]) -> int:
    """Analyze, write the report, say in a few lines what it found."""
    options = parser().parse_args(arguments)
    logger, began = logger_config(options.logger), time.perf_counter()
    with listed_families(options.family), Phases() as phases:
        with phases.begin("calibrating", 1) as step:
            analyzed = open_calibrated(model_source(options, options.quant, options.data))
            step()
        images, labels = analyzed.measured(options.images)
        with phases.begin("layers", -(-len(images) // BATCH)) as step:
            errors = layer_errors(analyzed.model, images, BATCH, step)
        count = len(blocks(analyzed.model))
        with phases.begin("depth", count + 2) as step:
            sensitivity = Sensitivity(analyzed, images, labels, BATCH)
            step(2)
            depth = [
                (name, stepped(step, sensitivity.integer_up_to(i + 1)))
                for i, (name, _) in enumerate(blocks(analyzed.model))
            ]
        whole = sensitivity.base
        sensitivity = Sensitivity(
            analyzed, images[: options.sensitivity_images], labels[: options.sensitivity_images], BATCH
        )
        tried = changes(analyzed, options.bits)
        with phases.begin("changes", sum(map(sensitivity.cost, tried))) as step:
            measured = [stepped(step, sensitivity.measure(change), sensitivity.cost(change)) for change in tried]
    report = model_report(analyzed, errors, [*depth, ("scores", whole)], sensitivity.base, measured, arguments)
    report.facts |= {
        "images": f"{len(analyzed.calibration)} calibration, {len(images)} measured, "
        f"{len(images[: options.sensitivity_images])} a change",
        "changes tried": str(len(tried)),
    }
    print(report.finish(options.out, logger.wandb, began))
    return 0
