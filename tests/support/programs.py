"""Programs of a few operators."""

from __future__ import annotations

import numpy as np

from intvit.program import Constant, Operator, Program, Value, infer_output


def program_of(*operators: Operator, constants: dict[str, Constant], shape: tuple[int, int, int]) -> Program:
    """A program with inferred values; the last operator gives the output."""
    values = {"image": Value(shape, 8, False)}
    for operator in operators:
        held = {role: constants[name] for role, name in operator.constants.items()}
        values[operator.output] = infer_output(operator, [values[name] for name in operator.inputs], held)
    return Program("image", operators[-1].output, values, constants, list(operators))


def linear_program(weight: np.ndarray, bias: int, ratio: tuple[int, int] = (1, 1)) -> Program:
    """image [1, 1, K] -> u - 128 -> linear -> int32 scores."""
    roles = {"multiplier": "m", "bias": "b"}
    constants = {
        "m": Constant(np.array([2]), 32),
        "b": Constant(np.array([-256]), 64),
        "w": Constant(weight, 8),
        "c": Constant(np.full(len(weight), bias), 32),
        "r": Constant(np.array([ratio[0]]), 32),
        "e": Constant(np.array([ratio[1]]), 8),
    }
    return program_of(
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, roles),
        Operator("reshape", "flat", ("x",), "flat", {"shape": (weight.shape[1],)}),
        Operator("linear", "head", ("flat",), "head", {}, {"weight": "w", "bias": "c"}),
        Operator(
            "requantize", "scores", ("head",), "scores", {"bits": 32, "signed": True}, {"multiplier": "r", "shift": "e"}
        ),
        constants=constants,
        shape=(1, 1, weight.shape[1]),
    )
