"""Scores of a mask transformer: every patch's vector times that of every class, enlarged to the image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import divide, float_matmul, requantize
from intvit.quant.config import QuantConfig
from intvit.quant.kernels import Kernels, full_precision
from intvit.quant.layer import Layer
from intvit.quant.layers.boundary import SCORE_LIMIT
from intvit.quant.layers.dense import Upsample
from intvit.quant.layers.linear import Linear
from intvit.quant.layers.normalization import LayerNorm
from intvit.quant.quantizer import Quantizer, requantization
from intvit.quant.tensor import AnyTensor, Derived, Integers, QTensor, Symbol, handle, narrow


class MaskScores(Layer):
    """The end of Segmenter (arXiv 2105.05633, section 3.2.2): projections of patches and classes, and their products.

    Segmenter divides both by their l2 norms, and normalizes the products over the classes. Here a LayerNorm stands in
    the place of the l2 norms, and nothing after the products. It is an l2 normalization, of the centered row, times
    sqrt(C) and a learned gain: no patch and no class outweighs others by its length. Of the two it is the one with an
    exact integer operator, and its codes have one scale for all rows, so that the int32 products of patches and classes
    are scores as they stand, at one scale. Gains begin at C^-1/4, which gives products of unit variance.

    width: C of the tokens. grid: (h, w) of the patches. factor: pixels along the side of a patch.
    """

    dense = True

    def __init__(
        self, width: int, classes: int, quant: QuantConfig, name: str, *, grid: tuple[int, int], factor: int
    ) -> None:
        super().__init__()
        self.width, self.classes, self.patches = width, classes, math.prod(grid)

        def projection(part: str) -> Linear:
            site = quant.site(f"{name}.{part}", edge=True)
            return Linear(width, width, site, Quantizer.of_stream(width, site), bias=False)

        self.proj_patch, self.proj_classes = projection("proj_patch"), projection("proj_classes")
        self.norm_patch = LayerNorm(width, quant.site(f"{name}.norm_patch", edge=True))
        self.norm_classes = LayerNorm(width, quant.site(f"{name}.norm_classes", edge=True))
        for projected in (self.proj_patch, self.proj_classes):
            torch.nn.init.normal_(projected.weight, std=width**-0.5)
        for norm in (self.norm_patch, self.norm_classes):
            torch.nn.init.constant_(norm.weight, width**-0.25)
        self.upsample = Upsample(grid, factor)
        self.limit = SCORE_LIMIT // self.upsample.gain
        self.step: Derived  # of the patches' scores
        self.scaling: Derived  # Requantization

    @property
    def score_scale(self) -> Tensor:
        """Real value of one step of the enlarged scores, as derived last, float64 ()."""
        step: Tensor = self.upsample.step.value
        return step

    def forward(self, x: AnyTensor) -> AnyTensor:
        """Tokens (B, h*w + classes, C), patches first -> reals (B, classes, H, W), which carry the gradient."""
        if isinstance(x, QTensor):
            return self.scores(x).differentiable()
        patches, classes = self._operands(x)
        if isinstance(patches, Symbol) and isinstance(classes, Symbol):
            return self.upsample(self._record_products(patches, classes))
        assert isinstance(patches, Tensor)
        assert isinstance(classes, Tensor)
        return self.upsample(patches @ classes.transpose(1, 2))

    def scores(self, x: QTensor) -> QTensor:
        """int32 scores (B, classes, H, W) of codes (B, h*w + classes, C)."""
        patches, classes = self._operands(x)
        assert isinstance(patches, QTensor)
        assert isinstance(classes, QTensor)
        a, b = patches.values, classes.values
        with full_precision(a.device):
            products = float_matmul(a, b.transpose(1, 2), 2 ** (patches.bits - 1), 2 ** (classes.bits - 1))
        p = self.scaling.value
        values = requantize(products, p.multiplier, p.shift, 32).to(torch.int32)
        gradient = ProductGradient.apply(patches.handle, classes.handle, patches, classes, self.kernels(a))
        dense = self.upsample(QTensor(values, gradient, self.step.value, 32))
        assert isinstance(dense, QTensor)
        return dense

    def _operands(self, x: AnyTensor) -> tuple[AnyTensor, AnyTensor]:
        """Normalized vectors of patches (B, h*w, C) and of classes (B, classes, C)."""
        ends = self.patches, self.patches + self.classes
        patches = narrow(x, 0, 0, ends[0], f"{self.name}.patches")
        classes = narrow(x, 0, *ends, f"{self.name}.classes")
        return self.norm_patch(self.proj_patch(patches)), self.norm_classes(self.proj_classes(classes))

    def _record_products(self, patches: Symbol, classes: Symbol) -> Symbol:
        """Emit `matmul` and the `requantize` to scores that leave room for `upsample`."""
        emit, derive, shape = patches.builder.emit, patches.builder.derive, (self.patches, self.classes)
        product = derive(torch.mul, patches.scale, classes.scale, site=self.name)
        reach = 2 ** (patches.bits + classes.bits - 2) * self.width
        self.step = derive(coarser, product, site=self.name, reach=reach, limit=self.limit)
        self.scaling = derive(requantization, product, self.step, None, bits=32, site=self.name, rows=1)
        products = emit(
            "matmul",
            f"{self.name}.products",
            [patches, classes],
            shape=shape,
            bits=32,
            scale=product,
            integers=lambda: Integers({"transpose_b": True}),
        )
        return emit(
            "requantize",
            f"{self.name}.scores",
            [products],
            shape=shape,
            bits=32,
            scale=self.step,
            integers=lambda: self.scaling.value.integers(32),
        )


def coarser(scale: Tensor, *, reach: int, limit: int) -> Tensor:
    """The scale at which values up to `reach` of this one are up to `limit`, or this one where they are less."""
    return divide(scale * max(reach, limit), limit)


class ProductGradient(torch.autograd.Function):
    """Gradient of patches times classes at their codes, straight through inside the ranges."""

    @staticmethod
    def forward(
        ctx: Any, patches_handle: Tensor, classes_handle: Tensor, patches: QTensor, classes: QTensor, kernels: Kernels
    ) -> Tensor:
        ctx.save_for_backward(patches.values, classes.values)
        ctx.form = patches.scale, classes.scale, patches.bits, classes.bits, kernels.mask
        (batch, rows, _), columns = patches.values.shape, classes.values.shape[1]
        return handle(batch, rows, columns, device=patches.values.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        patches, classes = ctx.saved_tensors
        patch_scale, class_scale, patch_bits, class_bits, mask = ctx.form
        of_patches = gradient @ (classes.float() * class_scale.float())
        of_classes = gradient.transpose(1, 2) @ (patches.float() * patch_scale.float())
        return mask(of_patches, patches, patch_bits), mask(of_classes, classes, class_bits), None, None, None
