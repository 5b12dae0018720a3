"""`intvit search CKPT --budget BUDGET... --out DIR`: families and bit widths for every layer, under a budget.

CKPT is weights, as docs/weights.md lists them, or a run of train.py, of which the weights are taken. No training.

First every change of one layer is measured alone; an additive model of them makes candidates that fill the budget;
Optuna searches over the model's weights, each candidate measured; the same once more with changes of the best one. Then
the best candidates and every preset within the budget meet on other images. The winner is written: train.py
--config-dir DIR quant=found schedule=calibrate makes the same integers. The same command goes on where it was
interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import sys
import time
from dataclasses import replace

from torch import Tensor

from intvit import __version__
from intvit.analysis.analyzed_model import AnalyzedModel, read_model
from intvit.claims import holding
from intvit.commands.argument_types import at_least, positive
from intvit.commands.family_option import family_option, listed_families
from intvit.commands.model_options import model_options, model_source, out_option, several, width
from intvit.files import write_json, write_text
from intvit.progress import Phases, stepped
from intvit.quant.presets import compose_quant
from intvit.reports.search_page import report
from intvit.search.budget import BUDGETS, budget_of, parse
from intvit.search.cached_evaluator import JOURNAL, CachedEvaluator, Journal, workers
from intvit.search.evaluator import Candidate, Evaluator
from intvit.search.held_out import held_out_images
from intvit.search.preset_file import NAME, preset_text
from intvit.search.search import Search, SearchSettings, integer_presets
from intvit.training.config import logger_config

ANY_PRESET = "lut8"  # of a weights file, of which the weights alone count


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit search",
        description=__doc__,
        epilog=_budgets(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="weights (.safetensors, .pth), run folder or .ckpt")
    parser.add_argument(
        "--budget", required=True, nargs="+", metavar="BUDGET", help="one or more, all of which hold: see below"
    )
    out_option(parser, "of the preset, the report, the journal")
    model_options(parser, calibration_images=256)  # as schedule=calibrate
    parser.add_argument("--search", metavar="DIR", help="folder with train-*.tar (default: that of calibration)")
    parser.add_argument("--alone-images", type=several, default=48, metavar="N", help="for a single change (48)")
    parser.add_argument("--search-images", type=several, default=128, metavar="N", help="for a candidate (128)")
    parser.add_argument(
        "--final-images", type=several, default=384, metavar="N", help="others, for the last ones (384)"
    )
    parser.add_argument(
        "--trials", type=positive, default=64, metavar="N", help="candidates that Optuna draws, twice (64)"
    )
    parser.add_argument(
        "--bits", type=width, nargs="+", default=[3, 4, 5, 6, 7], metavar="B", help="widths to try (3 4 5 6 7)"
    )
    parser.add_argument(
        "--activation-bits", type=width, nargs="+", metavar="B", help="of activations, where others than of weights"
    )
    family_option(parser)
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (1); changes no result")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of Optuna (0)")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier search in DIR measured")
    parser.add_argument(
        "--logger", default="csv", metavar="NAME", help="csv, or wandb with overrides: wandb,logger.wandb.offline=true"
    )
    return parser


def _budgets() -> str:
    lines = "\n".join(f"  {f'{name}=AMOUNT':<20}  {meaning}" for name, meaning in BUDGETS.items())
    return (
        f"budgets:\n{lines}\n\nAMOUNT: 24, 4.5M, 60G, or a preset's name: as much as it uses.\n\n"
        "example:\n  intvit search deit_tiny.safetensors --budget bytes=3.1M no16 --calibration DIR --out OUT"
    )


def main(arguments: list[str]) -> int:
    """Search, write preset and report, say in a few lines what was found."""
    options = parser().parse_args(arguments)
    try:
        return _search(options, arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 128 + signal.SIGINT


def _search(options: argparse.Namespace, arguments: list[str]) -> int:
    logger, began = logger_config(options.logger), time.perf_counter()
    limits = parse(options.budget, integer_presets())
    with listed_families(options.family) as families, holding(options.out, patience=1.0), Phases() as phases:
        with phases.begin("calibrating", 3) as step:
            analyzed = stepped(step, read_model(model_source(options, ANY_PRESET)))
            count = options.search_images + options.final_images
            images = stepped(step, held_out_images(analyzed, options.search, options.calibration, count))
            journal = Journal(
                options.out / JOURNAL, _settings(options, analyzed, images, families), fresh=options.fresh
            )
            evaluator = stepped(
                step, Evaluator(analyzed, images, prove=any(name == "accumulator" for name, _ in limits))
            )
        budget = budget_of(limits, lambda name: evaluator.used(Candidate(name, {})))
        with workers(evaluator, options.jobs) as pool:
            cached = CachedEvaluator(evaluator, journal, pool)
            search = Search(_search_settings(options), analyzed, budget, cached)
            outcome = search.run(phases)
    notes = [f"Found by {shlex.join(['intvit', 'search', *arguments])}", f"Budget: {budget}."]
    write_text(options.out / "quant" / f"{NAME}.yaml", preset_text(outcome.winner.candidate, search.sites, notes))
    page = report(outcome, budget, shlex.join(["intvit", "search", *arguments]))
    page.facts |= {
        "images": f"{len(analyzed.calibration)} calibration, {len(images)} search, "
        f"{options.final_images} of them final",
        "candidates measured": f"{cached.count} now, {len(journal.held)} in all",
        "CPU": f"{sum(os.times()[:4]):.0f} s",
    }
    write_json(options.out / "search.json", outcome.figures(budget))
    print(page.finish(options.out, logger.wandb, began))
    return 0


def _search_settings(options: argparse.Namespace) -> SearchSettings:
    return SearchSettings(
        alone_images=options.alone_images,
        search_images=options.search_images,
        final_images=options.final_images,
        trials=options.trials,
        bits={"weight": tuple(options.bits), "activation": tuple(options.activation_bits or options.bits)},
        seed=options.seed,
    )


def _settings(
    options: argparse.Namespace, analyzed: AnalyzedModel, images: Tensor, families: dict[str, str]
) -> dict[str, object]:
    """What measurements depend on, and what leads the search; folders and how it runs are neither."""
    digest = hashlib.sha256(repr(replace(analyzed.config, weights=None)).encode())
    for tensor in (*analyzed.model.parameters(), analyzed.calibration, images):
        digest.update(tensor.detach().numpy().tobytes())
    presets = repr([(name, compose_quant(name)) for name in integer_presets()])
    kept = ("budget", "alone_images", "search_images", "final_images", "trials", "bits", "activation_bits", "seed")
    return {
        **{key: getattr(options, key) for key in kept},
        **({"families": families} if families else {}),
        "weights and images": digest.hexdigest()[:16],
        "presets": hashlib.sha256(presets.encode()).hexdigest()[:16],
        "version": __version__,
    }
