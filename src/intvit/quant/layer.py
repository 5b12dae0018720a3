"""Layer: what every quantization-aware module shares: its path in the model and the mode that it runs in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intvit.quant.derivation import Derivations
from intvit.quant.kernels import Kernels
from intvit.quant.kernels.accelerator import accelerator
from intvit.quant.kernels.compiled import compiled
from intvit.quant.kernels.eager import EAGER
from intvit.quant.tensor import QTensor, Symbol

LEARNED_STEP = ".clip"  # how names of parameters end that set a quantizer's step; a float model has none
MODES = ("float", "calibrate", "integer")


def recomputing() -> bool:
    """Whether this is inside a backward pass: a block under torch.utils.checkpoint is computed once more.

    It then meets the same batch, whatever came in between; the ranges have seen it.
    """
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint tells its recomputations apart


class Layer(nn.Module):
    """Base of the layers in `intvit.quant.layers`.

    name: path in the model; the operator of the program has the same name.
    compiles: whether training steps use compiled kernels.
    mode: `float` computes reals, `calibrate` also feeds the observers, `integer` computes the program's integers.
    alone: whether the layer derives its integers when it is called; a model derives those of all its layers before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.mode = "float"
        self.compiles = False
        self.alone = True

    @property
    def calibrating(self) -> bool:
        return self.mode == "calibrate"

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """`forward`, after a pass on symbols where the layer is alone."""
        if self.alone and any(isinstance(x, QTensor) for x in inputs):
            self.derive(*inputs, **options)
        return super().__call__(*inputs, **options)

    def derive(self, *inputs: Any, **options: Any) -> None:
        """The integers that the layer has for inputs of such scales, from its parameters as they are."""
        derivations = Derivations()
        self.forward(*(_symbol(x, derivations) for x in inputs), **options)
        derivations.resolve()

    def kernels(self, x: Tensor) -> Kernels:
        """Those of x's device; on a CPU compiled ones in training, if so configured: evaluation meets many shapes."""
        if x.device.type != "cpu":
            return accelerator()
        return compiled() if self.compiles and self.training else EAGER


def _symbol(x: Any, derivations: Derivations) -> Any:
    if not isinstance(x, QTensor):
        return x
    shape, per_channel = tuple(x.values.shape[1:]), bool(x.scale.dim())
    return Symbol("", shape, x.bits, True, x.scale, x.factors, derivations, per_channel)
