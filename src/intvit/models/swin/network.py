"""Swin Transformer (arXiv 2103.14030): what feeds what, for float, integer and recording. Parameters have timm's names.

Windows, cyclic shifts, padding and patch merging are gathers of tokens, which stay in row-major order of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.models.base import ImageModel, check_patch
from intvit.models.drop_path import DropPath
from intvit.models.vit.blocks import Mlp
from intvit.quant import QuantConfig, finish_construction
from intvit.quant.layers import (
    Add,
    AttentionCore,
    Features,
    InputQuantize,
    LayerNorm,
    Linear,
    MeanPool,
    PatchEmbed,
    Scores,
)
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, gather, reshape

EPSILON = 1e-5  # timm's


@dataclass(frozen=True)
class SwinSize:
    """width C of the first stage, doubled by every other; blocks and heads of each stage; timm: its name there."""

    timm: str
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int = 4
    window: int = 7
    mlp_ratio: float = 4.0

    def build(self, **options: Any) -> nn.Module:
        return SwinTransformer(self, **options)


class SwinTransformer(ImageModel):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes); in integer mode logits are scores * score_scale.

    Without classes (num_classes=0) the pooled features (B, C) take the logits' place.
    """

    def __init__(
        self,
        size: SwinSize,
        *,
        image_size: int,
        patch_size: int | None,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        quant: QuantConfig,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(image_size, len(mean), num_classes)
        if len(size.depths) != len(size.heads):
            raise IntVitError(f"depths={size.depths} and heads={size.heads}: give one of each for every stage")
        patch = check_patch(image_size, size.patch if patch_size is None else patch_size)
        self.input = InputQuantize(mean, std, quant.site("input"))
        self.patch_embed = PatchEmbedding(len(mean), size.width, patch, quant)
        rates = torch.linspace(0, drop_path, sum(size.depths)).tolist()
        self.layers = nn.ModuleList()
        side, width = image_size // patch, size.width
        for i, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
            merged = (side, width) if i else None
            side, width = (-(-side // 2), 2 * width) if i else (side, width)
            stage = Stage(width, depth, heads, side, merged, size, quant, f"layers.{i}", rates[:depth])
            rates = rates[depth:]
            self.layers.append(stage)
        self.norm = LayerNorm(width, quant.site("norm"), epsilon=EPSILON)
        self.pool = MeanPool(Quantizer.of_activation(quant.site("pool")) if num_classes else None)
        self.head = nn.ModuleDict(
            {"fc": Scores(width, num_classes, quant.site("head.fc")) if num_classes else Features()}
        )
        finish_construction(self, quant)

    @property
    def scores_layer(self) -> Scores | Features:
        classifier = self.head["fc"]
        assert isinstance(classifier, Scores | Features)
        return classifier

    def features(self, images: AnyTensor) -> AnyTensor:
        """Classifier input (B, C): the mean of the tokens after the last norm."""
        x = self.patch_embed(self.input(images))
        for stage in self.layers:
            x = stage(x)
        return self.pool(self.norm(x))


class PatchEmbedding(nn.Module):
    """Patches, projected and normalized into the residual stream."""

    def __init__(self, channels: int, width: int, patch: int, quant: QuantConfig) -> None:
        super().__init__()
        site = quant.site("patch_embed.proj")
        self.proj = PatchEmbed(channels, width, patch, site, Quantizer.of_stream(width, site))
        self.norm = LayerNorm(width, quant.site("patch_embed.norm"), stream=True, epsilon=EPSILON)

    def forward(self, x: AnyTensor) -> AnyTensor:
        return self.norm(self.proj(x))


class Stage(nn.Module):
    """Patch merging but in the first stage, then blocks whose windows are shifted in every other one."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        side: int,
        merged: tuple[int, int] | None,
        size: SwinSize,
        quant: QuantConfig,
        name: str,
        rates: list[float],
    ) -> None:
        super().__init__()
        self.downsample = PatchMerging(*merged, quant, f"{name}.downsample") if merged else nn.Identity()
        self.blocks = nn.ModuleList()
        for i in range(depth):
            layout = Windows(side, size.window, shifted=i % 2 == 1)
            hidden = int(width * size.mlp_ratio + 1e-6)  # as in a ViT
            block = Block(width, heads, hidden, layout, quant, f"{name}.blocks.{i}", rates[i])
            self.blocks.append(block)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels; an odd side is padded with zeros."""

    index: Tensor

    def __init__(self, side: int, width: int, quant: QuantConfig, name: str) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.norm = LayerNorm(4 * width, quant.site(f"{name}.norm"), epsilon=EPSILON)
        site = quant.site(f"{name}.reduction")
        self.reduction = Linear(4 * width, 2 * width, site, Quantizer.of_stream(2 * width, site), bias=False)
        grid = _padded(torch.arange(side * side).view(side, side), 2)
        half = grid.shape[0] // 2
        # timm's order of the four: top left, bottom left, top right, bottom right
        index = grid.view(half, 2, half, 2).permute(0, 2, 3, 1).reshape(-1)
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = gather(x, 0, self.index, f"{self.name}.gather")
        x = reshape(x, f"{self.name}.merge", self.index.numel() // 4, 4 * self.width)
        return self.reduction(self.norm(x))


class Windows:
    """Which tokens share a window: `order` lists them window by window (-1: padding), `back` puts them in place again.

    size: side of a window, no larger than the image; count: number of windows; excluded: bool (count, N, N) or None,
    pairs of tokens that a cyclic shift brought into one window from opposite sides of the image. As in timm, the sides
    are those of the padded image, and padding is attended to.
    """

    def __init__(self, side: int, window: int, *, shifted: bool) -> None:
        self.size = min(window, side)
        shift = window // 2 if shifted and side > window else 0
        grid = torch.arange(side * side).view(side, side).roll((-shift, -shift), (0, 1))
        order = self._partition(_padded(grid, self.size))
        self.order, self.count = order.reshape(-1), order.shape[0]
        positions = torch.empty(side * side, dtype=torch.int64)
        kept = self.order >= 0
        positions[self.order[kept]] = kept.nonzero().view(-1)
        self.back = positions
        self.excluded = self._excluded(shift, -(-side // self.size) * self.size) if shift else None

    def _partition(self, grid: Tensor) -> Tensor:
        """(H, W) -> (windows, tokens of one)."""
        count = grid.shape[0] // self.size
        return grid.view(count, self.size, count, self.size).transpose(1, 2).reshape(count * count, -1)

    def _excluded(self, shift: int, side: int) -> Tensor:
        band = torch.zeros(side, dtype=torch.int64)  # along each axis: untouched, beside the seam, beyond it
        band[side - self.size :] = 1
        band[side - shift :] = 2
        region = self._partition(3 * band[:, None] + band)
        return region[:, :, None] != region[:, None, :]

    def relative_positions(self) -> Tensor:
        """Row of the bias table for every pair of tokens of a window, int64 (N, N)."""
        along = torch.arange(self.size)
        y, x = (c.reshape(-1) for c in torch.meshgrid(along, along, indexing="ij"))
        rows, columns = (c[:, None] - c[None, :] + self.size - 1 for c in (y, x))
        return rows * (2 * self.size - 1) + columns


class Block(nn.Module):
    """x + attention(norm(x)) within windows, then x + mlp(norm(x))."""

    def __init__(
        self, width: int, heads: int, hidden: int, layout: Windows, quant: QuantConfig, name: str, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, quant.site(f"{name}.norm1"), epsilon=EPSILON)
        self.attn = WindowAttention(width, heads, layout, quant, f"{name}.attn")
        self.add1 = Add(width, quant.site(f"{name}.add1"))
        self.norm2 = LayerNorm(width, quant.site(f"{name}.norm2"), epsilon=EPSILON)
        self.mlp = Mlp(width, hidden, quant, f"{name}.mlp")
        self.add2 = Add(width, quant.site(f"{name}.add2"))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.add1(self.drop_path(self.attn(self.norm1(x))), x)
        return self.add2(self.drop_path(self.mlp(self.norm2(x))), x)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a bias for every relative position. Yields accumulators."""

    positions: Tensor
    order: Tensor
    back: Tensor

    def __init__(self, width: int, heads: int, layout: Windows, quant: QuantConfig, name: str) -> None:
        super().__init__()
        self.name = name
        table = torch.empty((2 * layout.size - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        site = quant.site(f"{name}.qkv")
        output = Quantizer(site.bits.activation, site.observer.activation, site.observer, groups=3)
        self.qkv = Linear(width, 3 * width, site, output)
        self.core = AttentionCore(
            width, heads, quant.site(f"{name}.core"), windows=layout.count, excluded=layout.excluded
        )
        self.proj = Linear(width, width, quant.site(f"{name}.proj"))
        self.register_buffer("positions", layout.relative_positions(), persistent=False)
        self.register_buffer("order", layout.order, persistent=False)
        self.register_buffer("back", layout.back, persistent=False)

    def forward(self, x: AnyTensor) -> AnyTensor:
        bias = self.relative_position_bias_table[self.positions].permute(2, 0, 1)  # (heads, N, N)
        x = self.qkv(gather(x, 0, self.order, f"{self.name}.windows"))
        return self.proj(gather(self.core(x, bias), 0, self.back, f"{self.name}.tokens"))


def _padded(grid: Tensor, multiple: int) -> Tensor:
    """(H, W) with -1 appended until both sides are multiples."""
    down, right = (-side % multiple for side in grid.shape)
    return nn.functional.pad(grid, (0, right, 0, down), value=-1)
