"""From an integer program to the cuda runtime's plan: groups of operators as fused steps, all others by operators.py.

No torch and no triton.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.program.program import Operator, Program, limits
from intvit.program.tables import pixel_table
from intvit.runtime.cuda.builder import (
    ROW_ALIGNMENT,
    Builder,
    gelu_bytes,
    is_int8,
    row_stride,
    strides,
    turned,
    with_heads,
)
from intvit.runtime.cuda.fusion import PatchesGroup, TabledLinearGroup
from intvit.runtime.cuda.operators import OPERATORS
from intvit.runtime.cuda.steps import Kind, Step
from intvit.runtime.fusion import AttentionGroup, LabelsGroup, LinearGroup
from intvit.runtime.lowering import dense_rows
from intvit.runtime.plan import ExecutionPlan, Tensor

LONGEST_SUM = 2**17 - 1  # products of int8 whose every sum fits int32: tensor cores before 9.0 saturate


def lower(program: Program, *, fuse: bool) -> ExecutionPlan[Step]:
    """The plan of a checked program. Without `fuse` every operator's output is in the plan's values, and stays.

    Raises IntVitError for a product over more than LONGEST_SUM entries.
    """
    for operator in program.operators:
        if operator.op in ("linear", "matmul") and program.values[operator.inputs[0]].shape[-1] > LONGEST_SUM:
            limit = f"runtime=cuda sums {LONGEST_SUM} products at most; use runtime=native"
            raise IntVitError(f"{operator}: sums {program.values[operator.inputs[0]].shape[-1]} products, {limit}")
    return Lowering(program, fuse=fuse).plan


class Lowering(Builder):
    """The steps of groups."""

    operators = OPERATORS

    def group(self, group: LinearGroup | AttentionGroup | TabledLinearGroup | PatchesGroup | LabelsGroup) -> None:
        if isinstance(group, LabelsGroup):
            inputs, factor = {"x": self.values[group.upsample.inputs[0]]}, group.upsample.attributes["factor"]
            self.step(Kind.LABELS, group.last, inputs, self.labels(group), factor=factor)
        elif isinstance(group, PatchesGroup):
            image = {"image": self.values[self.program.input]}
            table = {"table": pixel_table(self.program, group.pixels)}
            patch = group.last.attributes["patch"]
            self.step(Kind.PATCHES, group.last, image, self.new(group.last), table, patch=patch)
        elif isinstance(group, AttentionGroup) and self.fits(group):
            self.attention(group)
        elif not isinstance(group, AttentionGroup) and is_int8(self.program.constants_of(group.linear)["weight"]):
            self.linear_with(group)
        else:
            for operator in vars(group).values():
                OPERATORS[operator.op](self, operator)

    def linear_with(self, group: LinearGroup | TabledLinearGroup) -> None:
        linear, last = group.linear, group.last if isinstance(group, LinearGroup) else group.requantize
        inputs = {"x": self.rows(linear, linear.inputs[0])}
        constants, options = self.multiply_shift(last)
        if last.op == "add":
            residual = self.values[last.inputs[1]]
            fits = dense_rows(residual) and row_stride(residual) is not None
            inputs["residual"] = residual if fits else self.copied(last, residual)
        mode = "add" if last.op == "add" else "requantize"
        weights, options["packed"] = self.weights(linear)
        constants |= weights
        if isinstance(group, TabledLinearGroup):
            constants["table"] = gelu_bytes(self.program, group.last)[0]
        self.step(Kind.LINEAR, group.last, inputs, self.new(group.last), constants, mode=mode, **options)

    def fits(self, group: AttentionGroup) -> bool:
        """Whether the kernel takes the group: one multiplier for all logits, a bias equal for all images, four axes."""
        constants = self.program.constants_of(group.logits)
        if any(array.size > 1 for array in constants.values()) or len(self.program.values[group.last.output].shape) > 4:
            return False
        if group.logits.op == "add":
            bias = self.values[group.logits.inputs[1]]
            return self.plan.buffers[bias.buffer].data is not None
        return True

    def attention(self, group: AttentionGroup) -> None:
        products, logits, softmax, last = group.products, group.logits, group.softmax, group.last
        query = self.matrices(products, self.values[products.inputs[0]])
        key = self.values[products.inputs[1]]
        key = self.matrices(products, key if products.attributes["transpose_b"] else turned(key))
        inputs = {"q": query, "k": key, "v": self.turned_values(group)}
        constants = self.program.constants_of(logits)
        options: dict[str, Any] = {
            "multiplier": int(constants["multiplier_a" if logits.op == "add" else "multiplier"][0]),
            "multiplier_b": int(constants["multiplier_b"][0]) if "multiplier_b" in constants else 0,
            "shift": int(constants["shift"][0]),
            "logit_limits": limits(self.program.values[logits.output].bits, True),
        }
        shape = self.program.values[logits.output].shape
        if logits.op == "add":
            inputs["bias"] = self.per_logit(self.plan.content(self.values[logits.inputs[1]]), shape)
        if "mask" in softmax.constants:
            mask = self.program.constants_of(softmax)["mask"].astype(np.uint8)
            inputs["mask"] = self.per_logit(mask, shape)
        options |= self.normalization(softmax)
        if last.op == "weighted_mean":
            ending: dict[str, np.ndarray] = {}
            options |= self.mean(last)
        else:
            ending, bounds = self.multiply_shift(last)
            options |= bounds
        ending["table"] = self.table(softmax)
        output = with_heads(self.new(last, self.following_axes(last)))
        if not self.stacked(output, 3):  # an order of axes that the kernel does not store
            output = with_heads(self.new(last))
        self.step(Kind.ATTENTION, last, inputs, output, ending, **options)

    def matrices(self, operator: Operator, tensor: Tensor) -> Tensor:
        """[.., heads, M, K] dense along K, whose axes before the heads and the images are one."""
        fits = dense_rows(tensor) and self.stacked(with_heads(tensor), 3)
        return with_heads(tensor if fits else self.copied(operator, tensor))

    def turned_values(self, group: AttentionGroup) -> Tensor:
        """Values [groups, heads, D, N] dense along the tokens N: stored so by their linear layer, or else copied."""
        values = self.values[group.weighted.inputs[1]]
        values = with_heads(values if group.weighted.attributes["transpose_b"] else turned(values))
        *lead, tokens = values.entries.shape
        stored = self.plan.tensor((*lead, -(-tokens // ROW_ALIGNMENT) * ROW_ALIGNMENT), values.dtype)
        stored = stored.seen_as(stored.entries[..., :tokens])
        index = self.maker(group, values)
        if index is None:
            self.copy(group.weighted, values, stored)
            return stored
        step, first = self.plan.steps[index], values.offset
        part = {role: array[first:] for role, array in step.constants.items()}
        rest = {role: array[:first] for role, array in step.constants.items()}
        options = {key: value for key, value in step.options.items() if key != "mode"}
        self.plan.steps[index : index + 1] = [
            replace(step, output=step.output.seen_as(step.output.entries[..., :first]), constants=rest),
            Step(Kind.LINEAR_TURNED, step.name, step.inputs, stored, part, options),
        ]
        return stored

    def maker(self, group: AttentionGroup, values: Tensor) -> int | None:
        """The step of the linear layer whose last channels are the values, if nothing else reads them."""
        made = (i for i, step in enumerate(self.plan.steps) if step.output.buffer == values.buffer)
        index = next(made, None)
        if index is None or next(made, None) is not None:
            return None
        step = self.plan.steps[index]
        if step.kind is not Kind.LINEAR or step.options["mode"] != "requantize" or "table" in step.constants:
            return None
        operator = next(operator for operator in self.program.operators if operator.name == step.name)
        others = {reader.name for reader in self.fusion.final_readers(operator)} - {group.weighted.name}
        q, k = (self.values[name] for name in group.products.inputs)
        if others - {group.products.name} or any(np.shares_memory(x.entries, values.entries) for x in (q, k)):
            return None
        # rows of all tokens, one group after the other
        (groups, heads, size, tokens), wide = values.entries.shape, values.whole.shape[-1]
        rows = np.empty((groups, tokens, wide), np.int8)[..., : heads * size].reshape(groups, tokens, heads, size)
        same = strides(rows.transpose(0, 2, 3, 1)) == strides(values.entries)
        fits = values.whole.size == groups * tokens * wide and 0 < values.offset == wide - heads * size
        return index if same and fits else None
