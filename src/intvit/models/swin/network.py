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
from intvit.models.dense import check_dense
from intvit.models.drop_path import DropPath
from intvit.models.swin.weights import adapt, resample
from intvit.models.swin.windows import Windows, numbered, padded
from intvit.models.vit.blocks import Mlp
from intvit.quant import QuantConfig, finish_construction
from intvit.quant.layers import (
    Add,
    AttentionCore,
    DenseScores,
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

    def build(self, *, dense: str | None = None, **options: Any) -> nn.Module:
        windows = (self.window,) * len(self.depths) if isinstance(self.window, int) else self.window
        if not len(self.depths) == len(self.heads) == len(windows):
            more = "" if isinstance(self.window, int) else f" and window={self.window}"
            raise IntVitError(f"depths={self.depths} and heads={self.heads}{more}: give one of each for every stage")
        if dense is None:
            return SwinTransformer(self, **options)
        return DenseSwinTransformer(self, dense=dense, **options)


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
        self._build_end(size, width, num_classes, quant)
        finish_construction(self, quant)

    def _build_end(self, size: SwinSize, width: int, num_classes: int, quant: QuantConfig) -> None:
        """Pooling, and what makes scores of the features."""
        self.pool = MeanPool(Quantizer.of_activation(quant.site("pool", edge=True)) if num_classes else None)
        self.head: nn.ModuleDict | Scores = nn.ModuleDict(
            {"fc": Scores(width, num_classes, quant.site("head.fc", edge=True)) if num_classes else Features()}
        )

    @property
    def scores_layer(self) -> Scores | Features:
        assert isinstance(self.head, nn.ModuleDict)
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


class DenseSwinTransformer(SwinTransformer):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes, H, W). The head `linear` alone: `norm` and `head`."""

    def __init__(self, size: SwinSize, *, dense: str, **options: Any) -> None:
        self.dense = dense
        super().__init__(size, **options)

    def _build_end(self, size: SwinSize, width: int, num_classes: int, quant: QuantConfig) -> None:
        if self.dense != "linear":
            reason = "have tokens of other sizes" if self.dense == "multi" else "mix tokens in windows alone"
            raise IntVitError(f"task.head={self.dense}: the stages of Swin {reason}; say task.head=linear")
        factor = self.patch_embed.patch * 2 ** (len(size.depths) - 1)
        grid = check_dense(self.dense, num_classes, self.image_size, factor)
        self.head = DenseScores(width, num_classes, quant.site("head", edge=True), grid=grid, factor=factor)

    @property
    def scores_layer(self) -> Scores:
        assert isinstance(self.head, DenseScores)
        return self.head

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As of a Swin, whose classifier is `head.fc`; `head` is that of every pixel."""
        own = {key: value for key, value in state.items() if key in ("head.weight", "head.bias")}
        return {**adapt({key: value for key, value in state.items() if key not in own}), **own}

    def stages(self) -> list[Callable[[AnyTensor], AnyTensor]]:
        """See ImageModel; the end is the tokens of the last stage after the last norm, (B, h*w, C)."""
        return [*super().stages()[:-1], self.norm]


class PatchEmbedding(nn.Module):
    """Patches, projected and normalized into the residual stream."""

    def __init__(self, channels: int, width: int, patch: int, quant: QuantConfig) -> None:
        super().__init__()
        self.patch = patch
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
        tokens = padded(numbered(grid), (2, 2))
        rows, columns = (side // 2 for side in tokens.shape)
        # timm's order of the four: top left, bottom left, top right, bottom right
        index = tokens.view(rows, 2, columns, 2).permute(0, 2, 3, 1).reshape(-1)
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = gather(x, 0, self.index, f"{self.name}.gather")
        x = reshape(x, f"{self.name}.merge", self.index.numel() // 4, 4 * self.width)
        return self.reduction(self.norm(x))


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
