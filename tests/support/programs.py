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


def dense_program(classes: int, grid: tuple[int, int], factor: int, ends: tuple[str, ...]) -> Program:
    """image [classes, h, w] -> its pixels times 2^21 / (2 factor)^2 as scores -> upsample, argmax as `ends` says.

    Every pixel is a score of its own, and ties are many where images have few values.
    """
    multiplier = max(1, 2**21 // (2 * factor) ** 2)
    constants = {
        "m": Constant(np.full(classes, 2), 32),
        "b": Constant(np.full(classes, -256), 64),
        "r": Constant(np.array([2 * multiplier]), 32),
        "e": Constant(np.array([1]), 8),
    }
    form = {"bits": 32, "signed": True}
    operators = [
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, {"multiplier": "m", "bias": "b"}),
        Operator("requantize", "scores", ("x",), "scores", form, {"multiplier": "r", "shift": "e"}),
    ]
    attributes = {"upsample": {"factor": factor}, "argmax": {}}
    for op in ends:
        operators.append(Operator(op, op, (operators[-1].output,), op, attributes[op]))
    return program_of(*operators, constants=constants, shape=(classes, *grid))


def dense_images(program: Program, seed: int) -> np.ndarray:
    """uint8 [4, ...] for `dense_program`: random, of two values, of two neighbouring values, all alike."""
    rng, shape = np.random.default_rng(seed), program.values["image"].shape
    few = [rng.integers(0, 2, shape) * 255, 128 + rng.integers(0, 2, shape), np.full(shape, 7)]
    return np.stack([rng.integers(0, 256, shape), *few]).astype(np.uint8)
