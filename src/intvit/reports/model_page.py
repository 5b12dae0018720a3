"""The page of `intvit analyze model`: where a model loses accuracy to integers, what each change would do, its cost."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.analysis.layer_error import LayerErrors
from intvit.analysis.sensitivity import EVERYWHERE, Effect, Measured
from intvit.export.record import record
from intvit.program.cost import OperatorCost, float_totals, operator_costs, totals
from intvit.reports import model_plots as plots
from intvit.reports.report import Column, Plot, Report, Table


def model_report(
    analyzed: AnalyzedModel,
    errors: LayerErrors,
    depth: list[tuple[str, Effect]],
    base: Effect,
    measured: list[Measured],
    arguments: list[str],
) -> Report:
    program = record(analyzed.model)
    costs = operator_costs(program)
    integer, real = totals(costs), float_totals(costs, program)
    whole = depth[-1][1]
    report = Report(f"Model analysis: {analyzed.name}", shlex.join(["intvit", "analyze", "model", *arguments]))
    report.facts = {
        "top-1": f"{whole.top1:.1f} %",
        "first class as float's": f"{whole.agreement:.1f} %",
        "SQNR of the scores": f"{whole.sqnr:.1f} dB",
        "integer MACs": f"{integer['macs'] / 1e6:,.0f} M",
        "energy, 45 nm, estimated": f"{integer['energy'] / 1e9:.2f} mJ, float {real['energy'] / 1e9:.2f} mJ",
        "energy, 7 nm, estimated": f"{integer['energy_7nm'] / 1e9:.2f} mJ, float {real['energy_7nm'] / 1e9:.2f} mJ",
    }
    report.findings = _findings(errors, depth, measured)
    report.parts = [
        Plot("depth", "Where the scores are lost", plots.depth(depth), _DEPTH, "integers_up_to"),
        Table("integers_up_to", "Integers up to a block, float behind it", _EFFECT, _depth_rows(depth), plot="depth"),
        Plot("error", "Error of every layer", plots.layer_error(errors), _ERROR, "layers"),
        Plot("ranges", "Saturated codes and unused range", plots.ranges(errors), "", "layers"),
        Table("layers", "Layers: float against integer", _LAYERS, _layer_rows(errors), plot="error"),
        Plot("attention", "Entropy of the attention", plots.attention(errors), _ATTENTION, "entropy"),
        Table("entropy", "Attention entropy", _ENTROPY, _entropy_rows(errors), plot="attention"),
        Plot("operators", "Every operator swapped everywhere", plots.everywhere(measured), _SWAP, "sensitivity"),
        Plot("sites", "Every site swapped alone", plots.sites(measured), _SITES, "sensitivity"),
        Table(
            "sensitivity", "Sensitivity of the scores", _SENSITIVITY, _sensitivity_rows(measured, base), plot="sites"
        ),
        Plot("energy", "Energy by operator, estimated", plots.energy(costs, real), _ENERGY, "cost"),
        Table("cost_totals", "Cost of one image", _TOTALS, _total_rows(costs, integer, real), plot="energy"),
        Table("cost", "Cost of every operator", _COST, [asdict(cost) for cost in costs], plot="energy"),
    ]
    return report


_DEPTH = (
    "The first blocks compute integers, the rest float. A step between two blocks is what the second one costs; "
    "divergence is the mean KL divergence of the class probabilities from the float model's, in bits."
)
_ERROR = (
    "Signal to quantization noise. Above: against the float model, with all the error that came before. "
    "Below: what the layer itself adds, against the float layer at the same inputs."
)
_ATTENTION = (
    "Mean entropy of an attention row in bits: below float's, the integer softmax is sharper; above it, flatter."
)
_SWAP = (
    "One operator changed in all places at once, everything else as configured: how far the class probabilities move "
    "from those of the unchanged integer model, and the share of images whose first class is still the float model's."
)
_SITES = "One operator in one place, everything else as configured; the places of a block share its column."
_ENERGY = (
    "ISSCC 2014 (Horowitz), 45 nm: 8-bit products 0.2 pJ, 32-bit 3.1 pJ, additions 0.1 pJ, float32 MACs 4.6 pJ, "
    "weights from DRAM once an image, activations through 1 MB of SRAM; float32 without its functions. 7 nm: ISCA 2021 "
    "(Jouppi et al.), where memory costs more beside arithmetic. For comparison of programs, not of chips."
)
_EFFECT_COLUMNS = (
    Column("top1", "top-1 %", ".2f"),
    Column("agreement", "agreement %", ".2f", "images whose first class is the float model's"),
    Column("divergence", "divergence", ".3g", "mean KL divergence of class probabilities from float, bits"),
    Column("sqnr", "SQNR dB", ".1f", "power of the float scores over that of the difference"),
)
_EFFECT = (Column("integers", "integers up to"), *_EFFECT_COLUMNS)
_LAYERS = (
    Column("layer", "layer"),
    Column("kind", "operator"),
    Column("bits", "bits", "d"),
    Column("sqnr", "SQNR dB", ".1f", "against the float model"),
    Column("own_sqnr", "own SQNR dB", ".1f", "against the float layer at the same inputs"),
    Column("cosine", "cosine", ".5f"),
    Column("saturation", "saturated %", ".3f", "codes at an end of their width"),
    Column("range_used", "range used %", ".0f", "largest code over the width's largest"),
)
_ENTROPY = (
    Column("layer", "layer"),
    Column("float_entropy", "float", ".3f", "bits for each row"),
    Column("integer_entropy", "integer", ".3f"),
    Column("change", "change", "+.3f"),
    Column(
        "divergence", "divergence", ".3g", "KL of integer rows from float ones, bits; holds the error of the inputs"
    ),
)
_SENSITIVITY = (
    Column("site", "site"),
    Column("kind", "operator"),
    Column("change", "change"),
    Column("moved", "moved, bits", ".3g", "mean KL divergence from the unchanged integer model"),
    Column("added", "added, bits", "+.3g", "divergence from float beyond the unchanged model's"),
    *_EFFECT_COLUMNS,
    Column("top1_change", "Δ top-1", "+.2f", "points against the unchanged model on the same images"),
    Column("overrides", "quant.overrides", page=False),
)
_TOTALS = (
    Column("operator", "operator"),
    Column("macs", "MACs", ",.0f"),
    Column("bit_operations", "bit operations", ",.0f", "MACs times both operands' widths"),
    Column("weight_bytes", "weight bytes", ",.0f"),
    Column("activation_bytes", "activation bytes", ",.0f", "read and written"),
    Column("energy", "pJ, 45 nm", ",.0f"),
    Column("energy_7nm", "pJ, 7 nm", ",.0f"),
)
_COST = (Column("name", "layer"), Column("op", "operator"), *_TOTALS[1:])


def _depth_rows(depth: list[tuple[str, Effect]]) -> list[dict[str, object]]:
    return [{"integers": name, **asdict(effect)} for name, effect in depth]


def _layer_rows(errors: LayerErrors) -> list[dict[str, object]]:
    keys = [column.key for column in _LAYERS]
    return [{key: getattr(error, key) for key in keys} for error in errors.layers.values()]


def _entropy_rows(errors: LayerErrors) -> list[dict[str, object]]:
    rows = []
    for error in errors.attention.values():
        row = {key: error.mean(key) for key in ("float_entropy", "integer_entropy", "divergence")}
        rows.append({"layer": error.layer, **row, "change": row["integer_entropy"] - row["float_entropy"]})
    return rows


def _sensitivity_rows(measured: list[Measured], base: Effect) -> list[dict[str, object]]:
    rows = []
    for entry in measured:
        words = {"site": entry.change.site, "kind": entry.change.kind, "change": entry.change.change}
        change = entry.effect.top1 - base.top1
        figures = {"moved": entry.moved, "added": entry.added, **asdict(entry.effect), "top1_change": change}
        rows.append({**words, **figures, "overrides": entry.change.overrides})
    return rows


def _total_rows(
    costs: list[OperatorCost], integer: dict[str, float], real: dict[str, float]
) -> list[dict[str, object]]:
    kinds = dict.fromkeys(cost.op for cost in costs)
    rows = [{"operator": kind, **totals([cost for cost in costs if cost.op == kind])} for kind in kinds]
    return [*rows, {"operator": "all", **integer}, {"operator": "all, in float32", **real}]


def _findings(errors: LayerErrors, depth: list[tuple[str, Effect]], measured: list[Measured]) -> list[str]:
    """Three sentences: where the loss arises, which change costs most, which operator hurts least."""
    values = [0.0, *(effect.divergence for _, effect in depth)]
    steps = [(after - before, name) for before, after, (name, _) in zip(values, values[1:], depth, strict=False)]
    largest, where = max(steps)
    own = min(errors.layers.values(), key=lambda error: error.own_sqnr)
    everywhere = sorted((m for m in measured if m.change.site == EVERYWHERE), key=lambda m: m.moved)
    alone = max((m for m in measured if m.change.site != EVERYWHERE), key=lambda m: m.moved)
    least, most = everywhere[0], everywhere[-1]
    return [
        f"The scores diverge from float by {values[-1]:.3g} bits; {where} adds the most, {largest:.3g}, and the layer "
        f"with the largest error of its own is {own.layer} ({own.own_sqnr:.1f} dB).",
        f"Changed everywhere, {_named(most)} moves the scores most ({most.moved:.3g} bits, agreement with float "
        f"{most.effect.agreement:.1f} %), {_named(least)} least ({least.moved:.3g} bits, "
        f"{least.effect.agreement:.1f} %).",
        f"Changed in one place, {_named(alone)} at {alone.change.site} moves them most ({alone.moved:.3g} bits).",
    ]


def _named(measured: Measured) -> str:
    return f"{measured.change.kind} {measured.change.change}"
