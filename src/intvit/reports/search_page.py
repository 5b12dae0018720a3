"""The report of a search: budget against divergence, what changes do alone, what the winner consists of."""

from __future__ import annotations

import re
from typing import Any

from intvit.reports import search_plots as plots
from intvit.reports.report import Column, Plot, Report, Table
from intvit.search.budget import Budget, Usage
from intvit.search.evaluator import gain
from intvit.search.search import Outcome


def report(outcome: Outcome, budget: Budget, command: str) -> Report:
    """Everything but time, memory and the number of images."""
    page = Report(f"Search: {budget}", command)
    winner = outcome.winner.measurement
    page.facts = {
        "divergence": f"{winner.divergence:.4f} bits",
        "first class as float's": f"{winner.agreement:.1f} %",
        "bytes": f"{winner.used.bytes / 1e6:.2f} M",
        "bit operations": f"{winner.used.bitops / 1e9:.1f} G",
    }
    page.findings = _findings(outcome, budget)
    widths = outcome.winner.candidate.overrides and outcome.widths
    page.parts = [
        Plot("pareto", "Divergence under the budget", plots.pareto(outcome, budget), _PARETO, "candidates"),
        Plot("finalists", "On the final images", plots.finalists(outcome), _FINALISTS, "final"),
        Table("final", "Finalists", _FINAL, _final_rows(outcome), _FINAL_TEXT, plot="finalists"),
        *([Plot("widths", "Widths of the winner", plots.widths(outcome), "", "found")] if widths else []),
        Table("found", "What the winner changes", _FOUND, _found_rows(outcome), plot="widths" if widths else None),
        Table(
            "candidates",
            "Every candidate and every preset on the search images",
            _CANDIDATES,
            _candidate_rows(outcome, budget),
            plot="pareto",
        ),
        Table("alone", "Changes of one layer alone", _ALONE, _alone_rows(outcome)),
    ]
    return page


def _findings(outcome: Outcome, budget: Budget) -> list[str]:
    winner, best = outcome.winner.measurement, outcome.best_preset
    what = f"{winner.divergence:.4f} bits from float, first class as float's {winner.agreement:.1f} %"
    lines = [f"Budget: {budget}.", f"Found ({plots.label(outcome.winner)}): {what}."]
    if best is None:
        lines.append("No preset is within the budget.")
    elif best is outcome.winner:
        lines.append(
            "It is the best preset within the budget: no candidate led it by more than the lead's standard error."
        )
    else:
        lead, error = gain(winner, best.measurement)
        lines.append(
            f"The best preset within it, {best.candidate.preset}, is {lead:.4f} ± {error:.4f} bits farther from float."
        )
    return lines


_PARETO = (
    "Mean KL divergence of the class probabilities from the float model's. Full dots are within the whole budget, and "
    "nothing within it lies below the line of the front."
)
_FINALISTS = (
    "Presets within the budget (dark) and the best candidates (light) on images by which nothing was chosen before. "
    "Bars: standard error of the difference from what was found, on the same images."
)
_FINAL_TEXT = (
    "Behind: how much farther from float than the best row, with the standard error of that difference on the same "
    "images."
)
_USAGE = (
    Column("bytes", "bytes", ",.0f", "weights and other constants"),
    Column("bitops", "bit operations", ",.0f", "MACs times both operands' widths"),
    Column("widest", "widest tensor", "d", "bits"),
    Column("accumulator", "accumulator", "d", "bits of the widest sum; only where the budget asks for it"),
)
_SCORES = (
    Column("divergence", "divergence", ".4f", "mean KL divergence of class probabilities from float, bits"),
    Column("agreement", "agreement %", ".1f", "images whose first class is the float model's"),
)
_CANDIDATES = (
    Column("preset", "preset"),
    Column("stage", "stage"),
    *_SCORES,
    *_USAGE,
    Column("within", "within budget"),
    Column("overrides", "quant.overrides", page=False),
)
_FINAL = (
    Column("preset", "preset"),
    Column("winner", "winner"),
    *_SCORES,
    Column("behind", "behind", ".4f"),
    Column("error", "error", ".4f", "standard error of `behind`"),
    *_USAGE,
    Column("overrides", "quant.overrides", page=False),
)
_FOUND = (Column("layers", "layers"), Column("key", "key"), Column("values", "values in the order of layers"))
_ALONE = (
    Column("site", "site"),
    Column("key", "key"),
    Column("value", "value"),
    Column("moved", "moved, bits", ".4f", "mean KL divergence from the unchanged integer model"),
    Column("gain", "gain, bits", "+.4f", "how much nearer to float"),
    Column("error", "error", ".4f", "standard error of the gain"),
)


def _used(used: Usage) -> dict[str, Any]:
    sums = used.accumulator if used.sums else None
    return {"bytes": used.bytes, "bitops": used.bitops, "widest": used.widest, "accumulator": sums}


def _candidate_rows(outcome: Outcome, budget: Budget) -> list[dict[str, Any]]:
    stages = (("preset", outcome.presets), ("search", outcome.candidates), ("other budget", outcome.curve))
    return [
        {
            "preset": entry.candidate.preset,
            "stage": stage,
            "divergence": entry.measurement.divergence,
            "agreement": entry.measurement.agreement,
            **_used(entry.measurement.used),
            "within": "yes" if budget.fits(entry.measurement.used) else "no",
            "overrides": entry.candidate.overrides,
        }
        for stage, entries in stages
        for entry in entries
    ]


def _final_rows(outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for entry in outcome.finalists:
        behind, error = gain(outcome.finalists[0].measurement, entry.measurement)
        rows.append(
            {
                "preset": plots.label(entry),
                "winner": "found" if entry is outcome.winner else "",
                "divergence": entry.measurement.divergence,
                "agreement": entry.measurement.agreement,
                "behind": behind,
                "error": error,
                **_used(entry.measurement.used),
                "overrides": entry.candidate.overrides,
            }
        )
    return rows


def _found_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One row for each key of layers whose names differ in numbers only; layers as the preset has them are left out."""
    rows: dict[tuple[str, str], list[str]] = {}
    for site, parts in sorted(outcome.winner.candidate.overrides.items(), key=lambda item: _numbers(item[0])):
        for part, values in parts.items():
            for key, value in values.items():
                layer = ".".join(map(str, _numbers(site)))
                text = f"{layer}: {value}" if layer else str(value)
                rows.setdefault((re.sub(r"\d+", "*", site), f"{part}.{key}"), []).append(text)
    return [{"layers": name, "key": key, "values": ", ".join(values)} for (name, key), values in rows.items()]


def _numbers(site: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", site)]


def _alone_rows(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "site": entry.choice.site,
            "key": f"{entry.choice.part}.{entry.choice.key}",
            "value": str(entry.value),
            "moved": entry.moved,
            "gain": entry.gain,
            "error": entry.error,
        }
        for entry in outcome.alone
    ]
