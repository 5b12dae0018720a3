"""What the cuda runtime fuses more than others: GELU's table behind a linear layer, and pixels with their patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intvit.program.program import Operator
from intvit.runtime.fusion import Fusion


@dataclass(frozen=True)
class TabledLinearGroup:
    """linear, requantize to at most 8 bits, GELU of x alone."""

    linear: Operator
    requantize: Operator
    last: Operator


@dataclass(frozen=True)
class PatchesGroup:
    """quantize_input of the image, patches."""

    pixels: Operator
    last: Operator


class CudaFusion(Fusion):
    """The groups of every fast runtime, and the two of this file."""

    def group_of(self, operator: Operator) -> Any:
        if operator.op == "quantize_input":
            last = self.only_reader(operator, "patches")
            return PatchesGroup(operator, last) if last and operator.inputs[0] == self.program.input else None
        group = super().group_of(operator)
        if operator.op != "linear" or group is None or group.last.op != "requantize":
            return group
        gelu = self.only_reader(group.last, "gelu")
        if gelu is None or gelu.attributes["kind"] == "shift":
            return group
        return TabledLinearGroup(operator, group.last, gelu)
