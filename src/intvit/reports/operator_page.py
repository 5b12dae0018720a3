"""The page of `intvit analyze operators`: every family of every operator against float."""

from __future__ import annotations

from typing import Any

from intvit.analysis import operator_curves
from intvit.reports import operator_plots as plots
from intvit.reports.report import Column, Plot, Table


def _curve_rows(curves: list[operator_curves.Curves]) -> list[dict[str, Any]]:
    rows = []
    for data in curves:
        for family, errors in data.errors().items():
            figures = {"largest": float(errors.abs().max()), "mean": float(errors.abs().mean())}
            rows.append({"function": data.name, "family": family, **figures, "unit": data.unit})
    return rows


_ERROR = (Column("largest", "largest error", ".3g"), Column("mean", "mean error", ".3g"))
_DIVERGENCE = Column("divergence", "divergence", ".3g", "mean KL divergence of a row from float, bits")
_FAMILY = Column("family", "family")


def parts(
    curves: list[operator_curves.Curves],
    softmax: list[dict[str, Any]],
    gelu: list[dict[str, Any]],
    layernorm: list[dict[str, Any]],
    wide: list[dict[str, Any]],
    real: list[dict[str, Any]],
) -> list[Table | Plot]:
    functions = [Plot(data.name, plots.TITLES[data.name], plots.curves(data), "", "functions") for data in curves]
    by_spread = plots.against(softmax, "spread", "mean", ("std of the logits", "mean error of a row"), "weights")
    by_reach = plots.against(gelu, "range", "mean", ("input range", "mean error, output steps"), "operator")
    by_share = plots.against(layernorm, "share", "mean", ("spread of a row", "mean error, output steps"), "stream")
    result: list[Table | Plot] = [
        *functions,
        Table("functions", "Functions", _FUNCTIONS, _curve_rows(curves), _CURVES, plot="exp"),
        Plot("softmax_error", "Softmax", by_spread, _SOFTMAX, "softmax"),
        Table("softmax", "Softmax errors", _SOFTMAX_COLUMNS, softmax, plot="softmax_error"),
        Plot("gelu_error", "GELU", by_reach, _GELU, "gelu_errors"),
        Table("gelu_errors", "GELU errors", _GELU_COLUMNS, gelu, plot="gelu_error"),
        Plot("layernorm_error", "LayerNorm", by_share, _LAYERNORM, "layernorm"),
        Table("layernorm", "LayerNorm errors", _LAYERNORM_COLUMNS, layernorm, plot="layernorm_error"),
        Table("widths", "Integer widths and steps", _WIDTH_COLUMNS, wide, _WIDTHS),
    ]
    if real:
        result += [
            Plot("layer_error", "On the inputs of a real model", plots.by_layer(real), _REAL, "layers"),
            Table("layers", "Errors on the inputs of a real model", _LAYER_COLUMNS, real, plot="layer_error"),
        ]
    return result


_FUNCTIONS = (Column("function", "function"), _FAMILY, *_ERROR, Column("unit", "unit"))
_SOFTMAX_COLUMNS = (
    _FAMILY,
    Column("weights", "weights"),
    Column("spread", "std of logits", "g"),
    *_ERROR,
    _DIVERGENCE,
)
_GELU_COLUMNS = (_FAMILY, Column("range", "input range", "g"), *_ERROR)
_LAYERNORM_COLUMNS = (_FAMILY, Column("stream", "stream"), Column("share", "spread", "g"), *_ERROR)
_WIDTH_COLUMNS = (
    Column("operator", "operator"),
    _FAMILY,
    Column("bits", "widest, bits", "d", "of any intermediate, proven for every image"),
    Column("widest", "which one"),
    Column("steps", "steps for each element"),
    Column("energy", "pJ, 45 nm", ".1f", "of these steps (Horowitz, ISSCC 2014)"),
    Column("energy_7nm", "pJ, 7 nm", ".1f", "of these steps (Jouppi et al., ISCA 2021)"),
)
_LAYER_COLUMNS = (Column("layer", "layer"), Column("operator", "operator"), _FAMILY, *_ERROR, _DIVERGENCE)

_CURVES = "Over the curves above; exp, erf and sqrt without the rounding of an output."
_SOFTMAX = (
    "Rows of 197 normal 8-bit logits; in probability, the mean is that of the sum of absolute errors over a row. "
    "Weights are relative to the row's largest and divided by their sum after the product with the values, but for "
    "the paper's form and “lut, rounded”, probabilities of a fixed step."
)
_GELU = "Rows of 768 values, int8 to int8; the range is the real input at code 127. “float” is the rounding alone."
_LAYERNORM = "Rows of 384 channels to int8; the spread is a row's standard deviation over the stream's range."
_WIDTHS = (
    "In one block of DeiT-T with 197 tokens. Additions, shifts and comparisons count as add. A runtime may look any "
    "function of 8 bits up in a table, with equal results."
)
_REAL = "The integers that every layer reads, on calibration images, through every family with the layer's own scales."


_NAMES = {"softmax": "Softmax", "gelu": "GELU", "layernorm": "LayerNorm"}


def findings(
    softmax: list[dict[str, Any]],
    gelu: list[dict[str, Any]],
    layernorm: list[dict[str, Any]],
    real: list[dict[str, Any]],
) -> list[str]:
    """One sentence for each operator: the families nearest to float, and the farthest."""
    if real:
        sets = {kind: [row for row in real if row["operator"] == kind] for kind in ("softmax", "gelu", "layernorm")}
    else:
        sets = {"softmax": softmax, "gelu": gelu, "layernorm": layernorm}
    sentences = []
    for name, rows in sets.items():
        means: dict[str, float] = {}
        for family in dict.fromkeys(row["family"] for row in rows):
            values = [row["mean"] for row in rows if row["family"] == family]
            means[family] = sum(values) / len(values)
        rounding = means.pop("float")
        ordered = sorted(means, key=lambda family: means[family])
        close = [family for family in ordered if means[family] <= 1.05 * rounding]
        where = "on the model's own inputs" if real else "over all settings"
        if close:
            best = f"{', '.join(close)} within 5 % of the rounding alone, mean error {rounding:.3g}"
        else:
            best = f"nearest is {ordered[0]}, mean error {means[ordered[0]]:.3g}, the rounding alone {rounding:.3g}"
        rest = "" if ordered[-1] in close else f"; farthest is {ordered[-1]} with {means[ordered[-1]]:.3g}"
        sentences.append(f"{_NAMES[name]}, {where}: {best}{rest}.")
    return sentences
