"""`check`: is a program well formed? Graph order, names, shapes, widths, ranges of constants, bounds of softmax.

What an operator must carry is in operators.py. Overflow for any image is the matter of bounds.py.
"""

from math import prod

import numpy as np

from intvit.program.functions import exponent, extremes, shift_exponential
from intvit.program.operators import infer_output
from intvit.program.program import Constant, Operator, Program, ProgramError, Value, limits

SUM_LIMIT = 2**31  # of softmax's exponentials; the reciprocal's numerators rest on it


def check(program: Program) -> None:
    """Raise ProgramError, one line, at the first thing that breaks the format; return None if nothing does."""
    _check_input(program)
    for name, constant in program.constants.items():
        check_constant(name, constant)
    defined, used = {program.input}, set[str]()
    for operator in program.operators:
        _check_operator(program, operator, defined)
        defined.add(operator.output)
        used.update(operator.constants.values())
    for name in program.values:
        if name not in defined:
            raise ProgramError(f"value {name!r} is declared, but no operator computes it")
    for name in program.constants:
        if name not in used:
            raise ProgramError(f"constant {name!r} is used by no operator; drop it")
    _check_output(program)


def check_constant(name: str, constant: Constant) -> None:
    """Integer dtype, a width of 1 to 64 bits, values inside that width."""
    if not isinstance(constant.array, np.ndarray) or constant.array.dtype.kind not in "iu":
        kind = getattr(constant.array, "dtype", type(constant.array).__name__)
        raise ProgramError(f"constant {name!r} has type {kind}, expected a numpy array of integers")
    widest = 64 if constant.signed else 63
    if not 1 <= constant.bits <= widest:
        raise ProgramError(f"constant {name!r} declares {constant.bits} bits, expected 1 to {widest}")
    if constant.array.size:
        (low, high), (smallest, largest) = limits(constant.bits, constant.signed), extremes(constant.array)
        if smallest < low or largest > high:
            width = f"{constant.bits} {'signed' if constant.signed else 'unsigned'} bits"
            raise ProgramError(
                f"constant {name!r} holds values {smallest}..{largest}, outside its {width} ({low}..{high})"
            )


def _check_input(program: Program) -> None:
    value = program.values.get(program.input)
    if value is None:
        raise ProgramError(f"input {program.input!r} is not among the values")
    if len(value.shape) != 3 or (value.bits, value.signed) != (8, False):
        raise ProgramError(
            f"input {program.input!r} must be an 8-bit unsigned image of shape [C, H, W], got {_text(value)}"
        )
    for name, other in program.values.items():
        if not other.shape or any(size < 1 for size in other.shape) or prod(other.shape) >= 2**31:
            raise ProgramError(
                f"value {name!r} has shape {list(other.shape)}, expected an axis or more, of at least 1 entry each, "
                "below 2^31 in all"
            )


def _check_operator(program: Program, operator: Operator, defined: set[str]) -> None:
    if operator.output != operator.name:
        raise ProgramError(f"{operator}: output is named {operator.output!r}, expected the operator's own name")
    if operator.output in defined:
        raise ProgramError(f"{operator}: the name {operator.output!r} is taken; names of operators are unique")
    for name in operator.inputs:
        if name not in defined:
            later = "a later operator computes it" if name in program.values else "nothing computes it"
            raise ProgramError(f"{operator}: input {name!r} is not defined before its use ({later})")
    for role, name in operator.constants.items():
        if name not in program.constants:
            raise ProgramError(f"{operator}: constant {role!r} refers to {name!r}, which does not exist")
    inputs = [program.values[name] for name in operator.inputs]
    constants = {role: program.constants[name] for role, name in operator.constants.items()}
    inferred, declared = infer_output(operator, inputs, constants), program.values.get(operator.output)
    if declared is None:
        raise ProgramError(f"{operator}: output {operator.output!r} is not among the values")
    same = (declared.shape, declared.bits, declared.signed) == (inferred.shape, inferred.bits, inferred.signed)
    if not same:
        raise ProgramError(f"{operator}: output is declared as {_text(declared)}, but comes out as {_text(inferred)}")
    if operator.op == "matmul" and inputs[0].bits > 8:
        source = program.producer(operator.inputs[0])
        if source is None or source.op not in ("softmax", "exponential"):
            raise ProgramError(
                f"{operator}: first input has {inputs[0].bits} bits, allowed only for the output of softmax or "
                "exponential"
            )
    if operator.op in ("softmax", "exponential"):
        check_exponent(operator, program.constants_of(operator), inputs[0])
    elif operator.op == "weighted_mean":
        _check_weighted_mean(program, operator)
    elif operator.op == "gelu" and operator.attributes["kind"] == "shift":
        _check_shift_gelu(operator, inputs[0])


def check_exponent(operator: Operator, constants: dict[str, np.ndarray], logits: Value) -> None:
    """E >= 0, enough significant bits at the maximum, sum(E) < 2^31: every possible distance is tried.

    `exponential` sums no E, but weights, of which the maximum's must not be 0.
    """
    value, _ = exponent(operator.attributes, constants, np.arange(1 << logits.bits))
    smallest, largest = extremes(value)
    if smallest < 0:
        raise ProgramError(
            f"{operator}: the exponential reaches {smallest}, expected none below 0; change its parameters"
        )
    if operator.op == "exponential":
        needed, row = -(-(1 << operator.attributes["shift"] - 1) // operator.attributes["multiplier"]), 1
    else:
        needed, row = 2**15 if operator.attributes["normalization"] == "rounded" else 1, logits.shape[-1]
    if value[0] < needed:
        remedy = "raise n, u or the table's scale" + (" or lower the shift" if operator.op == "exponential" else "")
        raise ProgramError(f"{operator}: the exponential of 0 is {value[0]}, expected at least {needed}; {remedy}")
    if largest * row >= SUM_LIMIT:
        remedy = "lower n, u or the table's scale"
        raise ProgramError(f"{operator}: {row} exponentials of up to {largest} may sum to 2^31 or more; {remedy}")


def _check_weighted_mean(program: Program, operator: Operator) -> None:
    """Its sums are those of its weights, and its weights come from `exponential`: no row of them is all zero."""
    by_name = {other.output: other for other in program.operators}
    sums, weights = (by_name.get(name) for name in operator.inputs)
    if sums is None or sums.op != "matmul" or sums.inputs[0] != operator.inputs[1]:
        raise ProgramError(f"{operator}: first input must be the matmul whose first input is {operator.inputs[1]!r}")
    if weights is None or weights.op != "exponential":
        raise ProgramError(f"{operator}: second input must be the output of exponential")


def _check_shift_gelu(operator: Operator, x: Value) -> None:
    largest = int(shift_exponential(operator.attributes, np.zeros(1, np.int64))[0])
    if 2 * largest >= SUM_LIMIT:
        raise ProgramError(f"{operator}: two exponentials of up to {largest} may sum to 2^31 or more; lower n")


def _check_end(program: Program) -> None:
    """`upsample`, `argmax`, or both in this order are the last operators and make the output."""
    ends = program.operators[-2:]
    while ends and [operator.op for operator in ends] not in (["upsample", "argmax"], ["upsample"], ["argmax"]):
        ends = ends[1:]
    for operator in program.operators[: len(program.operators) - len(ends)]:
        if operator.op in ("upsample", "argmax"):
            raise ProgramError(f"{operator}: stands amid the program; upsample, then argmax, may only end one")
    if ends and program.output != ends[-1].output:
        raise ProgramError(f"{ends[-1]}: ends the program, whose output is {program.output!r}; expected that to be its")
    if len(ends) == 2 and ends[1].inputs != (ends[0].output,):
        raise ProgramError(f"{ends[1]}: reads {ends[1].inputs[0]!r}, expected the {ends[0].output!r} before it")


def _check_output(program: Program) -> None:
    _check_end(program)
    value = program.values.get(program.output)
    if value is None or program.output == program.input:
        raise ProgramError(f"output {program.output!r} is computed by no operator")
    if program.form == "scores" and (len(value.shape) != 1 or not value.signed):
        expected = "signed scores of shape [classes], or the output of argmax or upsample"
        raise ProgramError(f"output {program.output!r} must be {expected}, got {_text(value)}")
    if program.classes and len(program.classes) != program.num_classes:
        raise ProgramError(
            f"{len(program.classes)} class names for {program.num_classes} scores; give one name per score or none"
        )


def _text(value: Value) -> str:
    return f"{list(value.shape)} of {value.bits} {'signed' if value.signed else 'unsigned'} bits"
