"""Layer: what every quantization-aware module shares: its path in the model and the mode that it runs in."""

from __future__ import annotations

from torch import nn

from intvit.quant.kernels import EAGER, Kernels, compiled

MODES = ("float", "calibrate", "integer")


class Layer(nn.Module):
    """Base of the layers in `intvit.quant.layers`.

    name: path in the model; the operator of the program has the same name.
    compiles: whether training steps use compiled kernels.
    mode: `float` computes reals, `calibrate` also feeds the observers, `integer` computes the program's integers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.mode = "float"
        self.compiles = False

    @property
    def calibrating(self) -> bool:
        return self.mode == "calibrate"

    @property
    def kernels(self) -> Kernels:
        """Compiled ones in training, if so configured; evaluation meets too many shapes to compile for."""
        return compiled() if self.compiles and self.training else EAGER
