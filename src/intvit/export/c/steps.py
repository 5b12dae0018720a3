"""What a C model consists of: kernels, and steps that call one with constant parameters and tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from intvit.runtime.plan import Tensor

ROWS = 8  # rows that a kernel works on at once: a weight's row is widened once for all of them


@dataclass(frozen=True)
class Kernel:
    """A C function `name` and the struct of its parameters, of the same name; `text` defines both."""

    name: str
    text: str


@dataclass(frozen=True, eq=False)
class Constants:
    """A parameter that is an array of the model's constants; `role` says which, for its name."""

    role: str
    array: np.ndarray


Parameter = int | tuple[int, ...] | Constants


@dataclass(frozen=True, eq=False)
class Argument:
    """A tensor that a step is given. `row`: entries from one of its rows to the next, 0 if the step wants it whole.

    `written`: the step writes to it. Scratch memory is written and whole.
    """

    tensor: Tensor
    row: int = 0
    written: bool = False


@dataclass(eq=False)
class Step:
    """One call. `rows`: how many rows the step goes through one after the other, 0 if it is no such step."""

    kernel: Kernel
    parameters: dict[str, Parameter]
    arguments: list[Argument]
    rows: int
    name: str  # of the operators that it stands for

    @property
    def tensors(self) -> Iterable[Tensor]:
        return [argument.tensor for argument in self.arguments]


@dataclass(eq=False)
class RowLoop:
    """Steps that are done for ROWS rows at a time. `local`: buffers that hold no more than those rows."""

    steps: list[Step]
    rows: int
    local: set[int] = field(default_factory=set)

    @property
    def tensors(self) -> Iterable[Tensor]:
        return [tensor for step in self.steps for tensor in step.tensors]


AnyStep = Step | RowLoop
