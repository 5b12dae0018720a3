"""What lowering to the cuda runtime's plan is made of: steps, rows and matrices of values, constants of operators.

No torch and no triton.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from intvit.program.program import Operator, Program, limits
from intvit.program.tables import gelu_table
from intvit.runtime.cuda.fusion import CudaFusion
from intvit.runtime.cuda.packing import BLOCK, pack
from intvit.runtime.cuda.steps import Kind, Step
from intvit.runtime.lowering import Lowering, dense_rows
from intvit.runtime.plan import Tensor

ROW_ALIGNMENT = 16  # entries: rows of values, biases and masks that begin there are loaded in words


class Builder(Lowering[Step]):
    """Appends steps to a plan; `lowering.py` says which."""

    fusion_rules = CudaFusion

    def step(
        self,
        kind: Kind,
        operator: Operator,
        inputs: dict[str, Tensor],
        output: Tensor,
        constants: dict[str, np.ndarray] | None = None,
        **options: Any,
    ) -> None:
        self.plan.steps.append(Step(kind, operator.name, inputs, output, constants or {}, options))

    def copy(self, operator: Operator, source: Tensor, target: Tensor) -> None:
        self.step(Kind.COPY, operator, {"source": source}, target)

    def rows(self, operator: Operator, name: str) -> Tensor:
        """The value as rows of one distance, over all images: [.., C] dense along C, or a dense copy."""
        tensor = self.values[name]
        return tensor if self.stacked(tensor, 1) and dense_rows(tensor) else self.copied(operator, tensor)

    def stacked(self, tensor: Tensor, axes: int) -> bool:
        """Whether images and all axes but the last `axes` are one axis of equal strides."""
        lead = tensor.entries.shape[:-axes]
        if self.plan.buffers[tensor.buffer].data is not None:  # a constant: equal for all images
            return prod(lead) == 1
        flat = tensor.entries.reshape(-1, *tensor.entries.shape[-axes:])
        if not np.may_share_memory(flat, tensor.entries):
            return False
        return len(flat) == 1 or len(flat) * flat.strides[0] == tensor.whole.size

    def multiply_shift(self, operator: Operator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Multipliers and shift for every channel of a requantize or an add, and the limits of its output."""
        constants, value = self.program.constants_of(operator), self.program.values[operator.output]
        low, top = limits(value.bits, value.signed)
        channels = {
            "multiplier" if role == "multiplier_a" else role: np.broadcast_to(array, value.shape[-1:]).astype(np.int32)
            for role, array in constants.items()
        }
        return channels, {"low": low, "top": top}

    def weights(self, linear: Operator) -> tuple[dict[str, np.ndarray], bool]:
        """Weight int8 [N, K], packed where 4 bits are enough, and the bias of what the kernel multiplies; if packed."""
        constants, x = self.program.constants_of(linear), self.program.values[linear.inputs[0]]
        weight, bias = constants["weight"].astype(np.int8), constants["bias"].astype(np.int64)
        if not x.signed:  # the kernel has x - 128
            bias = bias + 128 * weight.sum(1, dtype=np.int64)
        smaller = weight.shape[1] > BLOCK // 2  # a block is packed into half as many bytes
        packed = bool(weight.min() >= -8 and weight.max() <= 7) and smaller
        bias = bias.astype(np.int32)  # modulo 2^32, as sums are
        return {"weight": pack(weight) if packed else weight, "bias": bias}, packed

    def per_logit(self, array: np.ndarray | None, shape: tuple[int, ...]) -> Tensor:
        """A constant with an entry for every logit of `shape`, equal along axes before the last two where it was so."""
        assert array is not None  # `fits` has seen that it is a constant
        while array.ndim < len(shape):
            array = array[None]
        rows = np.broadcast_to(array, (*array.shape[:-2], *shape[-2:]))
        padding = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % ROW_ALIGNMENT)]
        tensor = self.plan.constant(np.pad(rows, padding))
        tensor = tensor.seen_as(tensor.entries[..., : shape[-1]])
        return with_heads(tensor.seen_as(np.broadcast_to(tensor.entries, shape)))

    def table(self, softmax: Operator) -> np.ndarray:
        """Weights of 8 bits as bytes, all others and exponentials as int32."""
        table = self.distance_table(softmax)
        narrow = softmax.op == "exponential" and softmax.attributes["bits"] <= 8
        return table.astype(np.uint8 if narrow else np.int32)

    @staticmethod
    def normalization(softmax: Operator) -> dict[str, Any]:
        """Kind and widths: published probabilities of b signed bits are below 2^(b-1)."""
        attributes = softmax.attributes
        kind = attributes["normalization"] if softmax.op == "softmax" else "deferred"
        return {"softmax": kind, "bits": attributes["bits"], "weight_bits": attributes["bits"] - (kind == "floor")}

    @staticmethod
    def mean(operator: Operator) -> dict[str, Any]:
        """Multiplier, shift and limits of a weighted_mean."""
        attributes, (low, top) = operator.attributes, limits(operator.attributes["bits"], True)
        return {"mean": (attributes["multiplier"], attributes["shift"]), "low": low, "top": top}


def is_int8(weight: np.ndarray) -> bool:
    """Not so for unsigned weights of 8 bits."""
    return int(weight.max()) <= 127


def turned(tensor: Tensor) -> Tensor:
    """The last two axes swapped."""
    return tensor.seen_as(tensor.entries.swapaxes(-1, -2))


def with_heads(tensor: Tensor) -> Tensor:
    """[groups, heads, M, K] of a matrix for each group and head; axes before the last lead axis must be one."""
    entries = tensor.entries
    while entries.ndim < 4:
        entries = entries[None]
    flat = entries.reshape(-1, *entries.shape[-3:])
    return tensor.seen_as(flat if np.may_share_memory(flat, entries) else entries)


def strides(entries: np.ndarray) -> list[int]:
    """Those of the axes that have more than one entry."""
    return [stride for stride, size in zip(entries.strides, entries.shape, strict=True) if size > 1]


def row_stride(tensor: Tensor) -> int | None:
    """Distance of the rows of one image; None where they have several."""
    flat = tensor.entries.reshape(-1, tensor.entries.shape[-1])
    return flat.strides[0] if np.may_share_memory(flat, tensor.entries) else None


def gelu_bytes(program: Program, operator: Operator) -> np.ndarray:
    """`gelu_table` for all bytes from -128 on: [1, 256], or [128, 256] by the row's maximum where that matters."""
    table = np.atleast_2d(gelu_table(program, operator))
    rest = 128 - table.shape[-1] // 2
    lines = 128 if operator.attributes["kind"] == "shift" else 1
    return np.pad(table, [(0, lines - len(table)), (rest, rest)])
