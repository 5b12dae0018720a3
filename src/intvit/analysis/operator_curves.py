"""The functions under the operators as curves: exp, erf, square root and GELU of every family beside the float one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intvit.analysis.operator_error import TOKENS, gelu_variants, softmax_variants
from intvit.arithmetic import (
    GELU_FAMILIES,
    SOFTMAX_FAMILIES,
    PolynomialGelu,
    ShiftGelu,
    apply_gelu_table,
    exponent_table,
    gelu_table,
    integer_sqrt,
    newton_sqrt,
)

EXPONENT_SCALE = 0.0625  # logits of a standard deviation of 2, their range at four of them
REACH = 6.0  # real input of GELU and erf at the largest code


@dataclass(frozen=True)
class Curves:
    """x, the float function's values there, and those of every family, all float64 (points,). unit: of the error."""

    name: str
    x: Tensor
    real: Tensor
    families: dict[str, Tensor]
    unit: str
    relative: bool = False

    def errors(self) -> dict[str, Tensor]:
        """Family minus float; over float where errors are relative."""
        scale = self.real if self.relative else 1.0
        return {family: (values - self.real) / scale for family, values in self.families.items()}


def exponential() -> Curves:
    """e^x on [-10, 0] at every logit distance, E / E(0)."""
    count = int(10 / EXPONENT_SCALE) + 1
    families = {}
    for name, (family, options, normalization) in softmax_variants().items():
        if normalization != "rounded":
            table = exponent_table(SOFTMAX_FAMILIES[family](EXPONENT_SCALE, TOKENS, 8, **options), 8)
            families[name] = (table / table[0])[:count]
    x = -torch.arange(count, dtype=torch.float64) * EXPONENT_SCALE
    return Curves("exp", x, x.exp(), families, "absolute")


def error_function() -> Curves:
    """erf(x / sqrt 2): I-BERT's parabola, and 2 sigmoid - 1 of ShiftGELU in a row whose maximum is the largest code."""
    x, scale = torch.arange(-128, 128), REACH / 127
    families = {}
    for name in ("ivit", "ivit, paper", "ibert"):
        family, options = gelu_variants()[name]
        gelu = GELU_FAMILIES[family](scale, scale, 8, 8, **options)
        if isinstance(gelu, PolynomialGelu):
            families[name] = gelu.erf(x << gelu.fraction_bits).double() / gelu.c
        elif isinstance(gelu, ShiftGelu):
            gate = gelu.gate(x, torch.tensor(127)).double()
            families[name] = 2 * gate / (1 << gelu.sigmoid_bits) - 1
    real = x.double() * scale
    return Curves("erf", real, torch.erf(real / math.sqrt(2)), families, "absolute")


def square_root() -> Curves:
    """Integer roots of 1 to 2^40: floor(sqrt(v)), and ten Newton steps from 2^16."""
    v = torch.unique(torch.logspace(0, 40, 400, base=2, dtype=torch.float64).to(torch.int64))
    families = {"exact": integer_sqrt(v).double(), "ivit, paper": newton_sqrt(v, 10).double()}
    return Curves("sqrt", v.double(), v.double().sqrt(), families, "relative", relative=True)


def gelu() -> Curves:
    """GELU from int8 to int8 in units of the output, in a row whose maximum is the largest code."""
    x, scale = torch.arange(-128, 128), REACH / 127
    families = {}
    for name, (family, options) in gelu_variants().items():
        function = GELU_FAMILIES[family](scale, scale, 8, 8, **options)
        families[name] = apply_gelu_table(x[None], gelu_table(function, 8))[0].double()
    real = x.double() * scale
    return Curves("gelu", real, torch.nn.functional.gelu(real) / scale, families, "steps of the int8 output")


ALL = (exponential, error_function, square_root, gelu)
