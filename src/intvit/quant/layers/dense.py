"""The end of a model that scores every pixel: scores of the patches, enlarged to the image, and each pixel's label.

What the integers are stands in docs/program-format.md, `upsample` and `argmax`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.arithmetic import divide, interpolation, upsample_float64
from intvit.errors import IntVitError
from intvit.quant.config import SiteConfig
from intvit.quant.layer import Layer
from intvit.quant.layers.boundary import SCORE_LIMIT, Scores
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle

LARGEST_FACTOR = 256


class Upsample(Layer):
    """Values of the patches (B, h*w, K) -> (B, K, h*factor, w*factor), bilinear, align_corners=False.

    grid: (h, w). factor: a power of two, 2 to 256. Integers are exact: they are (2 factor)^2 times as large, at a scale
    that is as much smaller. Raises IntVitError for another factor.
    """

    def __init__(self, grid: tuple[int, int], factor: int) -> None:
        super().__init__()
        if factor not in {2**k for k in range(1, LARGEST_FACTOR.bit_length())}:
            raise IntVitError(
                f"a patch is {factor} pixels wide; scores are enlarged by 2, 4, 8, .. {LARGEST_FACTOR}: choose such a "
                "patch size"
            )
        self.grid, self.factor = grid, factor
        self.step: Derived  # of the enlarged values

    @property
    def gain(self) -> int:
        """How much larger the integers become."""
        return 4 * self.factor**2

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Reals (B, h*w, K) -> (B, K, H, W); QTensor: int32, exact; Symbol: emit the rearrangement and `upsample`."""
        if isinstance(x, Symbol):
            return self.record(x)
        if isinstance(x, QTensor):
            values = upsample_float64(self._turned(x.values), self.factor)
            gradient = UpsampleGradient.apply(self._turned(x.handle), self.factor)
            return QTensor(values, gradient, self.step.value, 32)
        return F.interpolate(self._turned(x), scale_factor=self.factor, mode="bilinear", align_corners=False)

    def _turned(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unflatten(2, self.grid)

    def record(self, x: Symbol) -> Symbol:
        """Emit `reshape`, `transpose` and `upsample`."""
        self.step = x.builder.derive(divided, x.scale, site=self.name, by=self.gain)
        channels = x.shape[-1]
        turned = x.reshape(f"{self.name}.grid", *self.grid, channels)
        turned = turned.move("transpose", f"{self.name}.channels", (channels, *self.grid), axes=[2, 0, 1])
        return x.builder.emit(
            "upsample",
            self.name,
            [turned],
            shape=(channels, *(side * self.factor for side in self.grid)),
            bits=32,
            scale=self.step,
            integers=lambda: Integers({"factor": self.factor}),
        )


def divided(scale: Tensor, *, by: int) -> Tensor:
    """scale / by."""
    return divide(scale, by)


class UpsampleGradient(torch.autograd.Function):
    """Gradient of bilinear interpolation for handles (B, K, h, w): its transpose, axis by axis, equal on every run."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, factor: int) -> Tensor:
        *leading, height, width = x_handle.shape
        ctx.shape, ctx.factor = (height, width), factor
        return handle(*leading, height * factor, width * factor, device=x_handle.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, columns = (
            divide(interpolation(size, ctx.factor, gradient.device), 2 * ctx.factor).to(gradient.dtype)
            for size in ctx.shape
        )
        return rows.t() @ (gradient @ columns), None


class DenseScores(Scores):
    """A score of every class for each pixel: a linear layer on the patch tokens, enlarged to the image.

    width: C of the tokens. grid: (h, w) of the patches. factor: pixels along the side of a patch. The int32 scores of
    the patches leave room for the (2 factor)^2 by which `Upsample` multiplies them.
    """

    dense = True

    def __init__(
        self, width: int, classes: int, site: SiteConfig, *, grid: tuple[int, int], factor: int, bias: bool = True
    ) -> None:
        super().__init__(width, classes, site, bias=bias)
        self.upsample = Upsample(grid, factor)
        self.limit = SCORE_LIMIT // self.upsample.gain

    @property
    def score_scale(self) -> Tensor:
        """Real value of one step of the enlarged scores, as derived last, float64 ()."""
        step: Tensor = self.upsample.step.value
        return step

    def forward(self, x: AnyTensor) -> AnyTensor:
        """(B, h*w, C) -> reals (B, classes, H, W); with codes, the reals are scores * scale and carry the gradient."""
        y = super().forward(x)  # records and scores as the methods below say
        return self.upsample(y) if isinstance(x, Tensor) else y

    def scores(self, x: QTensor) -> QTensor:
        """int32 scores (B, classes, H, W) of codes (B, h*w, C)."""
        dense = self.upsample(super().scores(x))
        assert isinstance(dense, QTensor)
        return dense

    def record(self, x: Symbol) -> Symbol:
        """Emit `linear`, the `requantize` to scores, and `upsample`."""
        dense = self.upsample(super().record(x))
        assert isinstance(dense, Symbol)
        return dense


def labels(scores: Symbol) -> Symbol:
    """Emit `argmax` of dense scores (classes, H, W): the class of every pixel, (H, W), the lowest of equals."""
    classes, *shape = scores.shape
    bits = 8 if classes <= 2**8 else 16
    return scores.builder.emit("argmax", "labels", [scores], shape=tuple(shape), bits=bits, signed=False)
