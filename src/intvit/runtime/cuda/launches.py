"""From a step on torch tensors to what executes it. Imports triton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intvit.runtime.cuda import product_launches, row_launches
from intvit.runtime.cuda.launch import BoundStep, Launch
from intvit.runtime.cuda.steps import Kind


def launch(bound: BoundStep) -> Callable[[], Any]:
    """What executes the step: a kernel's launch, or torch's copy between views (which also converts integers)."""
    if bound.step.kind is Kind.COPY:
        return lambda: bound.output.copy_(bound.inputs["source"])
    return LAUNCHES[bound.step.kind](bound)


LAUNCHES: dict[Kind, Callable[[BoundStep], Launch]] = {
    Kind.GATHER: row_launches.launch_gather,
    Kind.PATCHES: row_launches.launch_patches,
    Kind.LOOK_UP: row_launches.launch_look_up,
    Kind.GELU_BY_MAXIMUM: row_launches.launch_gelu_by_maximum,
    Kind.LINEAR: product_launches.launch_linear,
    Kind.LINEAR_TURNED: product_launches.launch_linear_turned,
    Kind.MATMUL: product_launches.launch_matmul,
    Kind.REQUANTIZE: row_launches.launch_requantize,
    Kind.ADD: row_launches.launch_add,
    Kind.LAYERNORM: row_launches.launch_layernorm,
    Kind.SOFTMAX: row_launches.launch_softmax,
    Kind.WEIGHTED_MEAN: row_launches.launch_weighted_mean,
    Kind.ATTENTION: product_launches.launch_attention,
    Kind.UPSAMPLE: row_launches.launch_upsample,
    Kind.LABELS: row_launches.launch_labels,
}
