"""The steps of the native runtime's plan: those of abi.h."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from intvit.runtime.plan import Tensor


class Kind(IntEnum):
    """Kinds of steps, in the order of abi.h; what each takes stands at the head of its C++ file."""

    COPY = 0
    GATHER = 1
    LOOKUP = 2
    LINEAR = 3
    MATMUL = 4
    REQUANTIZE = 5
    ADD = 6
    LAYERNORM = 7
    SOFTMAX = 8
    WEIGHTED_MEAN = 9
    ATTENTION = 10
    UPSAMPLE = 11
    ARGMAX = 12
    UPSAMPLED_LABELS = 13


@dataclass(frozen=True, eq=False)
class Step:
    """One step; None where an input or a constant is left out."""

    kind: Kind
    inputs: list[Tensor | None]
    output: Tensor
    attributes: list[int] = field(default_factory=list)
    constants: list[np.ndarray | None] = field(default_factory=list)
    name: str = ""

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Inputs and output."""
        return (tensor for tensor in (*self.inputs, self.output) if tensor is not None)
