"""The integer program as data: values, constants, operators. No file access, no execution, no torch.

What each operator means stands in docs/program-format.md; what it must carry stands in operators.py.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from intvit.errors import IntVitError

OutputForm = Literal["scores", "dense_scores", "labels"]


class ProgramError(IntVitError):
    """A program, a checkpoint or an input that breaks the format: what, where, what was expected, in one line."""


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of the width: (-128, 127) for 8 signed bits, (0, 255) for 8 unsigned ones."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def container(bits: int, signed: bool) -> np.dtype:
    """Smallest numpy integer type that holds the width, e.g. int16 for 12 signed bits."""
    size = next(size for size in (8, 16, 32, 64) if bits <= size)
    return np.dtype(f"{'int' if signed else 'uint'}{size}")


@dataclass(frozen=True)
class Value:
    """An integer tensor that flows between operators. `shape` leaves out the batch axis.

    `scale` is for people (real value = integer * scale): no runtime reads it.
    """

    shape: tuple[int, ...]
    bits: int
    signed: bool
    scale: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))


@dataclass(frozen=True, eq=False)
class Constant:
    """An integer tensor of the checkpoint. `array` holds the true values, in the smallest type of the declared width.

    Any numpy integer type may be given. Values beyond the width are kept as they are, for `check` to refuse.
    """

    array: np.ndarray
    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.array, np.ndarray) and self.array.dtype.kind in "iu" and 1 <= self.bits <= 64:
            low, high = limits(self.bits, self.signed)
            if not self.array.size or (int(self.array.min()) >= low and int(self.array.max()) <= high):
                object.__setattr__(self, "array", self.array.astype(container(self.bits, self.signed), copy=False))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant):
            return NotImplemented
        return (self.bits, self.signed) == (other.bits, other.signed) and np.array_equal(self.array, other.array)


@dataclass(frozen=True)
class Operator:
    """One step. `name` is the path of the layer that it stands for; its output value has the same name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        attributes = {key: tuple(v) if isinstance(v, list) else v for key, v in self.attributes.items()}
        object.__setattr__(self, "attributes", attributes)

    def __str__(self) -> str:
        return f"operator {self.name!r} ({self.op})"


@dataclass
class Program:
    """Operators in execution order, from the uint8 image `input` ([C, H, W]) to `output`, whose form `form` says.

    `values` holds the input and every operator's output. `score_scale` turns scores into logits and is for people.
    Two programs are equal when everything in them is.
    """

    input: str
    output: str
    values: dict[str, Value]
    constants: dict[str, Constant]
    operators: list[Operator]
    score_scale: float = 1.0
    classes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def constants_of(self, operator: Operator) -> dict[str, np.ndarray]:
        """The operator's constants by role."""
        return {role: self.constants[name].array for role, name in operator.constants.items()}

    @property
    def form(self) -> OutputForm:
        """`scores`: signed [classes]. `dense_scores`: signed [classes, H, W]. `labels`: unsigned [H, W], classes."""
        last = self._last("argmax", "upsample")
        return "scores" if last is None else "labels" if last.op == "argmax" else "dense_scores"

    @property
    def num_classes(self) -> int:
        """How many scores, or scores of each pixel, there are."""
        return self.values[self.scores].shape[0]

    @property
    def scores(self) -> str:
        """The value of the scores: the output, but for an `argmax` the value that it reads."""
        last = self._last("argmax")
        return self.output if last is None else last.inputs[0]

    def _last(self, *ops: str) -> Operator | None:
        """The operator that computes the output, if it is one of these."""
        return next((o for o in self.operators[-1:] if o.output == self.output and o.op in ops), None)

    @property
    def score_operator(self) -> Operator | None:
        """The operator whose clamp the order of the scores must not meet; looks through what only moves them."""
        operator = self.producer(self.scores)
        return self.producer(operator.inputs[0]) if operator is not None and operator.op == "upsample" else operator

    def producer(self, value: str) -> Operator | None:
        """The operator that computes `value`, looking through reshape, transpose and slice; None for the input."""
        by_name = {operator.output: operator for operator in self.operators}
        operator = by_name.get(value)
        while operator is not None and operator.op in ("reshape", "transpose", "slice"):
            operator = by_name.get(operator.inputs[0])
        return operator
