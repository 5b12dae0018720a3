"""The steps of the cuda runtime's plan. What each takes is what its launch in launches.py reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from intvit.runtime.plan import Tensor


class Kind(Enum):
    """Kinds of steps. All but COPY are launches of a kernel."""

    COPY = "copy"
    GATHER = "gather"
    PATCHES = "patches"
    LOOK_UP = "look_up"
    GELU_BY_MAXIMUM = "gelu_by_maximum"
    LINEAR = "linear"
    LINEAR_TURNED = "linear_turned"
    MATMUL = "matmul"
    REQUANTIZE = "requantize"
    ADD = "add"
    LAYERNORM = "layernorm"
    SOFTMAX = "softmax"
    WEIGHTED_MEAN = "weighted_mean"
    ATTENTION = "attention"
    UPSAMPLE = "upsample"
    LABELS = "labels"


@dataclass(frozen=True, eq=False)
class Step:
    """One step. inputs: tensors by name; constants: arrays that the device holds; options: numbers and choices."""

    kind: Kind
    name: str
    inputs: dict[str, Tensor]
    output: Tensor
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Inputs and output."""
        return iter((*self.inputs.values(), self.output))

    @property
    def least_shift(self) -> int:
        """The smallest of the step's shifts; 0 where it has none."""
        return int(self.constants["shift"].min()) if "shift" in self.constants else 0
