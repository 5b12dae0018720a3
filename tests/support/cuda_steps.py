"""One step of the cuda runtime on given tensors, without a plan."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from intvit.runtime.cuda.launch import BoundStep
from intvit.runtime.cuda.launches import launch
from intvit.runtime.cuda.steps import Kind, Step
from intvit.runtime.plan import ExecutionPlan
from tests.support.triton_interpreter import DEVICE


def executed(
    kind: Kind, inputs: dict[str, Tensor], out: Tensor, constants: dict[str, np.ndarray] | None = None, **options: Any
) -> Tensor:
    """`out` after the step. inputs and out: [B, ...]; constants: numpy arrays of the types that lowering makes."""
    somewhere = ExecutionPlan[Step]().tensor((1,), np.dtype(np.int8))
    step = Step(kind, kind.value, {}, somewhere, constants or {}, options)
    moved = {
        role: torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE) for role, array in (constants or {}).items()
    }
    result = out.to(DEVICE)
    launch(BoundStep(step, {name: tensor.to(DEVICE) for name, tensor in inputs.items()}, result, moved))()
    return result.cpu()
