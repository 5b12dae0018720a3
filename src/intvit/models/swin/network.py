"""Swin Transformer (arXiv 2103.14030): what feeds what, for float, integer and recording. Parameters have timm's names.

Windows, cyclic shifts, padding and patch merging are gathers of tokens, which stay in row-major order of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.models.base import ImageModel, patch_grid
from intvit.models.drop_path import DropPath
from intvit.models.swin.weights import adapt, resample
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
    window: int | tuple[int, ...] = 7  # side in tokens, of all stages or one for each
    mlp_ratio: float = 4.0

    def of_stage(self, i: int) -> tuple[int, int]:
        """Side of its windows, width between the layers of its MLPs."""
        hidden = int(self.width * 2**i * self.mlp_ratio + 1e-6)  # cut as timm does; a ratio may be rounded down
        return (self.window if isinstance(self.window, int) else self.window[i]), hidden

    def build(self, **options: Any) -> nn.Module:
        windows = (self.window,) * len(self.depths) if isinstance(self.window, int) else self.window
        if not len(self.depths) == len(self.heads) == len(windows):
            more = "" if isinstance(self.window, int) else f" and window={self.window}"
            raise IntVitError(f"depths={self.depths} and heads={self.heads}{more}: give one of each for every stage")
        return SwinTransformer(self, **options)


class SwinTransformer(ImageModel):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes); in integer mode logits are scores * score_scale.

    Without classes (num_classes=0) the pooled features (B, C) take the logits' place.
    """

    def __init__(
        self,
        size: SwinSize,
        *,
        image_size: tuple[int, int],
        patch_size: int | None,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        quant: QuantConfig,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(image_size, len(mean), num_classes)
        patch = size.patch if patch_size is None else patch_size
        grid, width = patch_grid(image_size, patch), size.width
        self.input = InputQuantize(mean, std, quant.site("input", edge=True))
        self.patch_embed = PatchEmbedding(len(mean), size.width, patch, quant)
        rates = torch.linspace(0, drop_path, sum(size.depths)).tolist()
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
            merged = (grid, width) if i else None
            grid, width = ((-(-grid[0] // 2), -(-grid[1] // 2)), 2 * width) if i else (grid, width)
            stage = Stage(width, depth, heads, grid, merged, *size.of_stage(i), quant, f"layers.{i}", rates[:depth])
            rates = rates[depth:]
            self.layers.append(stage)
        self.norm = LayerNorm(width, quant.site("norm", edge=True), epsilon=EPSILON)
        self.pool = MeanPool(Quantizer.of_activation(quant.site("pool", edge=True)) if num_classes else None)
        self.head = nn.ModuleDict(
            {"fc": Scores(width, num_classes, quant.site("head.fc", edge=True)) if num_classes else Features()}
        )
        finish_construction(self, quant)

    @property
    def scores_layer(self) -> Scores | Features:
        classifier = self.head["fc"]
        assert isinstance(classifier, Scores | Features)
        return classifier

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `intvit.models.swin.weights.adapt`."""
        return adapt(state)

    def resample(self, state: Mapping[str, Tensor], trained: tuple[int, int] | None) -> dict[str, Tensor]:
        """See `intvit.models.swin.weights.resample`."""
        return resample(state, self, trained)

    def stages(self) -> list[Callable[[AnyTensor], AnyTensor]]:
        """See ImageModel; the end is the mean of the tokens after the last norm, (B, C)."""
        parts: list[Callable[[AnyTensor], AnyTensor]] = []
        for stage in self.layers:
            assert isinstance(stage, Stage)
            parts += [stage.downsample, *stage.blocks]
        return [lambda images: self.patch_embed(self.input(images)), *parts, lambda x: self.pool(self.norm(x))]


class PatchEmbedding(nn.Module):
    """Patches, projected and normalized into the residual stream."""

    def __init__(self, channels: int, width: int, patch: int, quant: QuantConfig) -> None:
        super().__init__()
        site = quant.site("patch_embed.proj", edge=True)
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
        grid: tuple[int, int],
        merged: tuple[tuple[int, int], int] | None,
        window: int,
        hidden: int,
        quant: QuantConfig,
        name: str,
        rates: list[float],
    ) -> None:
        super().__init__()
        self.downsample = PatchMerging(*merged, quant, f"{name}.downsample") if merged else nn.Identity()
        self.blocks = nn.ModuleList()
        for i in range(depth):
            layout = Windows(grid, window, shifted=i % 2 == 1)
            block = Block(width, heads, hidden, layout, quant, f"{name}.blocks.{i}", rates[i])
            self.blocks.append(block)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the channels; an odd side is padded with zeros.

    grid: rows and columns of the tokens that come in.
    """

    index: Tensor

    def __init__(self, grid: tuple[int, int], width: int, quant: QuantConfig, name: str) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.norm = LayerNorm(4 * width, quant.site(f"{name}.norm"), epsilon=EPSILON)
        site = quant.site(f"{name}.reduction")
        self.reduction = Linear(4 * width, 2 * width, site, Quantizer.of_stream(2 * width, site), bias=False)
        tokens = _padded(_numbered(grid), (2, 2))
        rows, columns = (side // 2 for side in tokens.shape)
        # timm's order of the four: top left, bottom left, top right, bottom right
        index = tokens.view(rows, 2, columns, 2).permute(0, 2, 3, 1).reshape(-1)
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = gather(x, 0, self.index, f"{self.name}.gather")
        x = reshape(x, f"{self.name}.merge", self.index.numel() // 4, 4 * self.width)
        return self.reduction(self.norm(x))


class Windows:
    """Which tokens share a window: `order` lists them window by window (-1: padding), `back` puts them in place again.

    grid: rows and columns of the tokens. size: of a window, on each axis no larger than the grid; count: number of
    windows; excluded: bool (count, N, N) or None, pairs of tokens that a cyclic shift brought into one window from
    opposite sides of the image. As in timm, an axis that one window covers is not shifted, the sides are those of the
    padded image, and padding is attended to.
    """

    def __init__(self, grid: tuple[int, int], window: int, *, shifted: bool) -> None:
        self.size = (min(window, grid[0]), min(window, grid[1]))
        rows, columns = (window // 2 if shifted and side > window else 0 for side in grid)
        padded = _padded(_numbered(grid).roll((-rows, -columns), (0, 1)), self.size)
        order = self._partition(padded)
        self.order, self.count = order.reshape(-1), order.shape[0]
        positions = torch.empty(grid[0] * grid[1], dtype=torch.int64)
        kept = self.order >= 0
        positions[self.order[kept]] = kept.nonzero().view(-1)
        self.back = positions
        self.excluded = self._excluded((rows, columns), padded) if rows or columns else None

    def _partition(self, tokens: Tensor) -> Tensor:
        """(H, W) -> (windows, tokens of one)."""
        height, width = self.size
        rows, columns = tokens.shape[0] // height, tokens.shape[1] // width
        return tokens.view(rows, height, columns, width).transpose(1, 2).reshape(rows * columns, -1)

    def _excluded(self, shifts: tuple[int, int], padded: Tensor) -> Tensor:
        bands = []
        for side, window, shift in zip(padded.shape, self.size, shifts, strict=True):
            band = torch.zeros(side, dtype=torch.int64)  # along each axis: untouched, beside the seam, beyond it
            if shift:
                band[side - window :] = 1
                band[side - shift :] = 2
            bands.append(band)
        region = self._partition(3 * bands[0][:, None] + bands[1])
        return region[:, :, None] != region[:, None, :]

    def relative_positions(self) -> Tensor:
        """Row of the bias table, ((2 h - 1) (2 w - 1), heads), for every pair of tokens of a window, int64 (N, N)."""
        height, width = self.size
        y, x = (c.reshape(-1) for c in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        rows, columns = y[:, None] - y[None, :] + height - 1, x[:, None] - x[None, :] + width - 1
        return rows * (2 * width - 1) + columns


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
        self.name, self.window = name, layout.size
        rows, columns = layout.size
        table = torch.empty((2 * rows - 1) * (2 * columns - 1), heads)
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


def _numbered(grid: tuple[int, int]) -> Tensor:
    """Tokens of a grid in row-major order, int64 (H, W)."""
    return torch.arange(grid[0] * grid[1]).view(grid)


def _padded(tokens: Tensor, multiples: tuple[int, int]) -> Tensor:
    """(H, W) with -1 appended until both sides are multiples."""
    down, right = (-side % multiple for side, multiple in zip(tokens.shape, multiples, strict=True))
    return nn.functional.pad(tokens, (0, right, 0, down), value=-1)
