"""`intvit search CKPT --budget BUDGET... --out DIR`: families and bit widths for every layer, under a budget.

CKPT is a weights file with timm's key names or a run of train.py, of which the weights are taken. Budgets, all of
which hold: bytes=4.5M, bitops=60G, accumulator=24, widest=8 or no16 (no tensor of 16 bits between operators); instead
of an amount a preset's name: as much as it uses. Nothing is trained.

First every change of one layer is measured alone; an additive model of them makes mixes that fill the budget; Optuna
searches over the model's weights, each mix measured; the best mixes and every preset within the budget meet on other
images. The winner is written: train.py --config-dir DIR quant=found schedule=calibrate makes the same integers.
The same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from intvit.analysis.presets import logger_config, preset_names
from intvit.analysis.progress import Phases
from intvit.analysis.subject import Subject, positive, read_subject, subject_options
from intvit.errors import IntVitError
from intvit.files import holding, write_json, write_text
from intvit.search.budget import Budget, Usage, parse
from intvit.search.images import search_images
from intvit.search.judge import Judge, Mix, gain
from intvit.search.page import report
from intvit.search.preset_file import NAME, preset_text
from intvit.search.price import Price
from intvit.search.proposals import Additive, Alone, Weights
from intvit.search.slots import Slot, slots
from intvit.search.study import Found, refine
from intvit.search.trials import JOURNAL, Journal, Trials, workers

FINALISTS = 5  # mixes that meet the presets on the final images
SHARES = (0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5)  # of the budget, for the curve of the plot


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intvit search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="weights (.safetensors, .pth), run folder or .ckpt")
    parser.add_argument("--budget", required=True, nargs="+", metavar="BUDGET", help="see above")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the preset, the report, the journal")
    subject_options(parser, calibration_images=256)  # as schedule=calibrate
    parser.add_argument("--search", metavar="DIR", help="folder with train-*.tar (default: behind the calibration's)")
    parser.add_argument("--alone-images", type=positive, default=48, metavar="N", help="for a single change (48)")
    parser.add_argument("--search-images", type=positive, default=128, metavar="N", help="for a mix (128)")
    parser.add_argument(
        "--final-images", type=positive, default=384, metavar="N", help="others, for the last ones (384)"
    )
    parser.add_argument("--trials", type=positive, default=96, metavar="N", help="mixes that Optuna draws (96)")
    parser.add_argument("--bits", type=positive, nargs="+", default=[3, 4, 5, 6, 7], metavar="B", help="widths to try")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (1); changes no result")
    parser.add_argument("--seed", type=int, default=0, help="of Optuna (0)")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier search in DIR measured")
    parser.add_argument("--logger", default="csv", help="csv, or wandb with overrides: wandb,logger.wandb.offline=true")
    parser.set_defaults(quant="lut8")  # any preset: the weights are what counts
    return parser


def main(arguments: list[str]) -> int:
    """Search, write preset and report, say in a few lines what was found."""
    options = _parser().parse_args(arguments)
    logger, began = logger_config(options.logger), time.perf_counter()
    with holding(options.out, patience=1.0), Phases() as phases:
        with phases.begin("calibrating", 1) as step:
            subject = read_subject(options.checkpoint, options)
            count = options.search_images + options.final_images
            images = search_images(subject, options.search, options.calibration, count)
            journal = Journal(options.out / JOURNAL, _settings(options, subject, images), fresh=options.fresh)
            judge = Judge(subject, images, prove=any(text.startswith("accumulator") for text in options.budget))
            step()
        budget = parse(options.budget, lambda name, prove: _preset_usage(judge, name))
        with workers(judge, options.jobs) as pool:
            search = Search(options, subject, budget, Trials(judge, journal, pool))
            outcome = search.run(phases)
    notes = [f"Found by {shlex.join(['intvit', 'search', *arguments])}", f"Budget: {budget}."]
    write_text(options.out / "quant" / f"{NAME}.yaml", preset_text(outcome.winner.mix, search.sites, notes))
    page = report(outcome, budget, shlex.join(["intvit", "search", *arguments]))
    page.facts |= {
        "images": f"{len(subject.calibration)} calibration, {len(images)} search, {options.final_images} of them final",
        "mixes measured": f"{search.trials.count} now, {len(journal.held)} in all",
        "CPU": f"{sum(os.times()[:4]):.0f} s",
    }
    write_json(options.out / "search.json", outcome.figures(budget))
    page.finish(options.out, logger.wandb, began)
    return 0


def _settings(options: argparse.Namespace, subject: Subject, images: Tensor) -> dict[str, object]:
    """What measurements depend on, and what leads the search; where it writes and how it runs is neither."""
    digest = hashlib.sha256()
    for tensor in (*subject.model.parameters(), subject.calibration, images):
        digest.update(tensor.detach().numpy().tobytes())
    kept = ("checkpoint", "budget", "model", "calibration", "calibration_images", "search", "alone_images")
    kept += ("search_images", "final_images", "trials", "bits", "seed")
    settings = {key: getattr(options, key) for key in kept}
    return {**settings, "weights and images": digest.hexdigest()[:16]}


def _preset_usage(judge: Judge, name: str) -> Usage | None:
    return judge.used(Mix(name, {})) if name in _presets() else None


def _presets() -> list[str]:
    return [name for name in preset_names() if name != "fp32"]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    presets: all of them on the search images. alone: single changes. mixes: those of Optuna, the best first. curve: of
    the additive model at other budgets. finalists: on the final images, presets within the budget among them, the
    best first; winner: one of them.
    """

    presets: list[Found]
    alone: list[Alone]
    mixes: list[Found]
    curve: list[Found]
    finalists: list[Found]
    winner: Found

    @property
    def best_preset(self) -> Found | None:
        """Of the finalists."""
        return next((entry for entry in self.finalists if not entry.mix.overrides), None)

    def figures(self, budget: Budget) -> dict[str, object]:
        """For search.json."""
        winner = self.winner.judged
        return {
            "budget": budget.limits,
            "preset": self.winner.mix.preset,
            "overrides": self.winner.mix.overrides,
            "program": winner.program,
            "bytes": winner.used.bytes,
            "bitops": winner.used.bitops,
            "widest": winner.used.widest,
            "divergence": winner.divergence,
            "agreement": winner.agreement,
        }


class Search:
    """The stages in order, each a function of measurements."""

    def __init__(self, options: argparse.Namespace, subject: Subject, budget: Budget, trials: Trials) -> None:
        self.options, self.subject, self.budget, self.trials = options, subject, budget, trials
        self.sites: list[str] = []

    def run(self, phases: Phases) -> Outcome:
        """Raises IntVitError where nothing is within the budget."""
        options, names = self.options, _presets()
        with phases.begin("presets", len(names)) as step:
            mixes = [Mix(name, {}) for name in names]
            judged = self.trials.measure(mixes, 0, options.search_images, step)
            presets = [Found(mix, result) for mix, result in zip(mixes, judged, strict=True)]
        base = self._base(presets)
        self.subject.quant = base.mix.quant()
        price, others = self._price(base)
        alone = self._alone(base, [*price.slots, *others], phases)
        additive = Additive(base.mix.preset, price, alone, self.trials.judge.used)
        with phases.begin("mixes", options.trials) as step:
            found = refine(
                additive, self.budget, self.trials, options.trials, options.search_images, options.seed, step
            )
        mixes = sorted(found, key=lambda entry: entry.judged.divergence)
        curve = self._curve(additive, phases)
        finalists, winner = self._finals(presets, mixes, phases)
        return Outcome(presets, alone, mixes, curve, finalists, winner)

    def _base(self, presets: list[Found]) -> Found:
        """What mixes begin with: the preset nearest to float of those that differ in widths at most from the budget.

        Bias correction fits means of the calibration images, a few classes' perhaps: presets have it, mixes don't.
        """
        widest = self.budget.limits.get("widest", float("inf"))
        kept = [entry for entry in presets if entry.judged.used.widest <= widest]
        plain = [entry for entry in kept if not entry.mix.quant().observer.bias_correction]
        if not plain:
            raise IntVitError(f"--budget {self.budget}: no preset has tensors that narrow")
        return min(plain, key=lambda entry: entry.judged.divergence)

    def _price(self, base: Found) -> tuple[Price, list[Slot]]:
        """The price of the width slots that matter to the budget, and all other slots."""
        judge = self.trials.judge
        found = slots(self.subject, self.options.bits, self.budget.limits.get("widest", float("inf")))
        widths = [slot for slot in found if slot.is_width]

        def program(overrides: dict[str, object]):
            return judge.program(Mix(base.mix.preset, overrides))

        price = Price(program, widths, base.judged.used)
        widths = [slot for i, slot in enumerate(widths) if price.matters(i, self.budget)]
        quant = base.mix.quant()
        self.subject.calibrated(quant)
        self.sites = quant.sites
        return Price(program, widths, base.judged.used), [slot for slot in found if not slot.is_width]

    def _alone(self, base: Found, tried: list[Slot], phases: Phases) -> list[Alone]:
        """Every option alone, beside the base."""
        count = self.options.alone_images
        pairs = [(slot, value) for slot in tried for value in slot.options]
        with phases.begin("changes", len(pairs) + 1) as step:
            (unchanged,) = self.trials.measure([base.mix], 0, count, step)
            mixes = [Mix(base.mix.preset, slot.options[value]) for slot, value in pairs]
            judged = self.trials.measure(mixes, 0, count, step, against=base.mix)
        return [
            Alone(slot, value, result.moved or 0.0, *gain(result, unchanged))
            for (slot, value), result in zip(pairs, judged, strict=True)
        ]

    def _curve(self, additive: Additive, phases: Phases) -> list[Found]:
        """Mixes of the additive model as it is at other budgets, where a budget is a quantity."""
        limited = self.budget.limits.keys() & {"bytes", "bitops"}
        shares = SHARES if limited else ()
        budgets = [
            Budget({name: limit * (share if name in limited else 1.0) for name, limit in self.budget.limits.items()})
            for share in shares
        ]
        with phases.begin("curve", len(budgets)) as step:
            mixes = [mix for budget in budgets if (mix := additive.mix(Weights(), budget)) is not None]
            judged = self.trials.measure(mixes, 0, self.options.search_images, step)
        return [Found(mix, result) for mix, result in zip(mixes, judged, strict=True)]

    def _finals(self, presets: list[Found], mixes: list[Found], phases: Phases) -> tuple[list[Found], Found]:
        """Finalists on the final images, the best first, and the winner.

        A mix wins only where its lead over the best preset is larger than the lead's standard error.
        """
        within = [entry.mix for entry in presets if self.budget.fits(entry.judged.used)]
        meeting = [*within, *(entry.mix for entry in mixes[:FINALISTS])]
        if not meeting:
            raise IntVitError(f"--budget {self.budget}: no mix is within it; narrower --bits, or a larger budget")
        first, count = self.options.search_images, self.options.final_images
        with phases.begin("final", len(meeting)) as step:
            judged = self.trials.measure(meeting, first, count, step)
        finalists = [Found(mix, result) for mix, result in zip(meeting, judged, strict=True)]
        finalists.sort(key=lambda entry: entry.judged.divergence)
        winner = finalists[0]
        preset = next((entry for entry in finalists if not entry.mix.overrides), None)
        if preset is not None:
            lead, error = gain(winner.judged, preset.judged)
            winner = winner if lead > error else preset
        return finalists, winner
