"""Functions of few arguments as tables, from the attributes and constants of an operator: numpy alone.

For runtimes that look up what others compute. The values are those of `functions`, which checks and proofs use; the
numpy runtime has formulas of its own, so that comparing the two means something.
"""

from __future__ import annotations

import numpy as np

from intvit.program.functions import exponent, gelu_before_shift
from intvit.program.program import Operator, Program, container, limits


def pixel_table(program: Program, operator: Operator) -> np.ndarray:
    """The quantized input of every channel and byte, [C, 256] of the output's type."""
    constants = program.constants_of(operator)
    multiplier, bias = (constants[role].astype(np.int64) for role in ("multiplier", "bias"))
    return _shifted(program, operator, np.arange(256) * multiplier[:, None] + bias[:, None])


def exponent_table(program: Program, operator: Operator) -> np.ndarray:
    """Softmax's E at every distance from the maximum, int64 [2^bits of the logits]."""
    distance = np.arange(2 ** program.values[operator.inputs[0]].bits)
    values, _ = exponent(operator.attributes, program.constants_of(operator), distance)
    return values.astype(np.int64)


def weight_table(program: Program, operator: Operator) -> np.ndarray:
    """`exponential`'s weight at every distance from the maximum, int64 [2^bits of the logits]."""
    values = exponent_table(program, operator) * operator.attributes["multiplier"]
    return _shifted(program, operator, values).astype(np.int64)


def gelu_table(program: Program, operator: Operator) -> np.ndarray:
    """GELU of all 2^bits inputs, lowest first, of the output's type.

    Kind `shift` depends on max(0, row's maximum) too: a line for each of the 2^(bits-1). Entries beyond the maximum of
    their line never occur; they are 0.
    """
    attributes, constants = operator.attributes, program.constants_of(operator)
    value = program.values[operator.output]
    if attributes["kind"] == "table":
        return constants["table"].astype(container(value.bits, value.signed))
    half = 2 ** (program.values[operator.inputs[0]].bits - 1)
    x = np.arange(-half, half)
    if attributes["kind"] != "shift":
        before, _ = gelu_before_shift(attributes, constants, x, np.maximum(x, 0))
        return _shifted(program, operator, before * attributes["multiplier"])
    row_max, index = np.nonzero(x <= np.arange(half)[:, None])
    before, _ = gelu_before_shift(attributes, constants, x[index], row_max)
    table = np.zeros((half, 2 * half), container(value.bits, value.signed))
    table[row_max, index] = _shifted(program, operator, before * attributes["multiplier"])
    return table


def _shifted(program: Program, operator: Operator, values: np.ndarray) -> np.ndarray:
    """clamp((v + 2^(shift-1)) >> shift), of the output's type."""
    value, shift = program.values[operator.output], operator.attributes["shift"]
    shifted = (values + (1 << (shift - 1))) >> shift
    table: np.ndarray = np.clip(shifted, *limits(value.bits, value.signed))
    return table.astype(container(value.bits, value.signed))
