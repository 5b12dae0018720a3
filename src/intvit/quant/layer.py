"""Layer: what every quantization-aware module shares: its path in the model and the mode that it runs in."""

from __future__ import annotations

from torch import nn

MODES = ("float", "calibrate", "integer")


class Layer(nn.Module):
    """Base of the layers in `intvit.quant.layers`.

    name: path in the model; the operator of the program has the same name.
    mode: `float` computes reals, `calibrate` also feeds the observers, `integer` computes the program's integers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.mode = "float"

    @property
    def calibrating(self) -> bool:
        return self.mode == "calibrate"
