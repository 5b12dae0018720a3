"""Stochastic depth for the float phases of training."""

from __future__ import annotations

from torch import Tensor, nn

from intvit.quant.tensor import AnyTensor


class DropPath(nn.Module):
    """Drop whole residual branches per sample while training on reals.

    Integer training keeps every branch: dropping one rescales the others by a ratio that the program does not have.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: AnyTensor) -> AnyTensor:
        if not isinstance(x, Tensor) or not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * keep.div_(1.0 - self.rate)
