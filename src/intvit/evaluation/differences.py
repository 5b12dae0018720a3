"""Which operator is the first to compute another integer: the search after a mismatch of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from intvit.program import Program

Trace = Callable[[np.ndarray], Iterable[tuple[str, np.ndarray]]]


def first_difference(program: Program, image: np.ndarray, trace: Trace, reference: Trace) -> str | None:
    """The earliest operator in program order where two executions of one image differ, in words, or None.

    image: uint8 (C, H, W). A trace yields (operator name, integers with the batch axis first); the reference may
    leave operators out.
    """
    expected = dict(reference(image[None]))
    own: Mapping[str, np.ndarray] = dict(trace(image[None]))
    for operator in program.operators:
        name = operator.output
        if name not in expected or name not in own:
            continue
        left, right = np.asarray(own[name]), np.asarray(expected[name])
        if left.shape != right.shape:
            right = right.reshape(left.shape) if left.size == right.size else right
        if left.shape != right.shape:
            return f"{operator.name} ({operator.op}): shape {left.shape} instead of {right.shape}"
        differing = np.flatnonzero(left != right)
        if len(differing):
            value, wanted = int(left.flat[differing[0]]), int(right.flat[differing[0]])
            return (
                f"{operator.name} ({operator.op}): {len(differing)} of {left.size} values, the first is {value} "
                f"instead of {wanted}"
            )
    return None
