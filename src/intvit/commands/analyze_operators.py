"""`intvit analyze operators`: softmax, GELU, LayerNorm and the functions under them, every family against float.

Curves, errors over scales and distributions of the inputs, integer widths and steps. With a checkpoint (a run of
train.py, or float weights with --calibration), also the errors on what every layer of that model reads. Writes
report.html with all tables and plots, each as CSV or PNG beside it.
"""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from intvit.analysis import operator_curves
from intvit.analysis.analyzed_model import BATCH, open_calibrated
from intvit.analysis.operator_inputs import layer_inputs, layer_table
from intvit.analysis.operator_tables import gelu_rows, layernorm_rows, softmax_rows
from intvit.analysis.operator_widths import widths
from intvit.commands.family_option import family_option, listed_families
from intvit.commands.model_options import model_options, model_source, out_option, preset_option
from intvit.progress import Phases, stepped
from intvit.reports.operator_page import findings, parts
from intvit.reports.report import Report
from intvit.training.config import logger_config


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit analyze operators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help="run folder, .ckpt, or weights; default none")
    out_option(parser, "folder of the report")
    model_options(parser)
    preset_option(parser)
    family_option(parser)
    parser.add_argument("--logger", default="csv", help="csv, or wandb with overrides: wandb,logger.wandb.offline=true")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, write the report, say in a few lines what it found."""
    options = parser().parse_args(arguments)
    logger, began = logger_config(options.logger), time.perf_counter()
    report = Report("Operators: integer against float", shlex.join(["intvit", "analyze", "operators", *arguments]))
    with (
        listed_families(options.family),
        Phases() as phases,
        phases.begin("operators", 5 + (2 if options.checkpoint else 0)) as step,
    ):
        curves = [make() for make in operator_curves.ALL]
        step()
        softmax, gelu, layernorm = (stepped(step, rows()) for rows in (softmax_rows, gelu_rows, layernorm_rows))
        wide = stepped(step, widths())
        real: list[dict[str, Any]] = []
        if options.checkpoint:
            analyzed = stepped(step, open_calibrated(model_source(options, options.quant, options.calibration)))
            inputs = layer_inputs(analyzed, analyzed.calibration[:BATCH])
            real = stepped(step, layer_table(inputs, analyzed.quant.bits.probabilities))
            report.facts["model"] = analyzed.name
            report.facts["images"] = (
                f"{len(analyzed.calibration)} calibration, {len(analyzed.calibration[:BATCH])} for inputs"
            )
    report.findings = findings(softmax, gelu, layernorm, real)
    report.parts = parts(curves, softmax, gelu, layernorm, wide, real)
    print(report.finish(options.out, logger.wandb, began))
    return 0
