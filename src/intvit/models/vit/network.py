"""ViT and DeiT: what feeds what, for float, integer and recording. Parameters have timm's names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from intvit.models.base import ImageModel, patch_grid
from intvit.models.drop_path import DropPath
from intvit.quant import QuantConfig, finish_construction
from intvit.quant.layers import (
    GELU,
    Add,
    AttentionCore,
    InputQuantize,
    LayerNorm,
    LearnedConstant,
    Linear,
    MeanScores,
    PatchEmbed,
    Scores,
)
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, concat, gather, reshape, select


@dataclass(frozen=True)
class VisionTransformerSize:
    """width C, depth and heads of one member of the family; patch is its usual patch size; timm: its name there."""

    timm: str
    width: int
    depth: int
    heads: int
    patch: int = 16
    mlp_ratio: int = 4
    distilled: bool = False  # a second token with its own classifier; the scores are the mean of both

    def build(self, **options: Any) -> nn.Module:
        return VisionTransformer(self, **options)


class VisionTransformer(ImageModel):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes); in integer mode logits are scores * score_scale."""

    def __init__(
        self,
        size: VisionTransformerSize,
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
        width, tokens = size.width, math.prod(patch_grid(image_size, patch))
        self.input = InputQuantize(mean, std, quant.site("input"))
        self.patch_embed = nn.ModuleDict(
            {"proj": PatchEmbed(self.channels, width, patch, quant.site("patch_embed.proj"))}
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if size.distilled else None
        self.leading = 2 if size.distilled else 1
        positions = torch.empty(1, tokens + self.leading, width)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(positions, std=0.02))
        self.class_constant = LearnedConstant(quant.site("class_constant"))
        self.position = LearnedConstant(quant.site("position"))
        self.embed = Add(width, quant.site("embed"))
        rates = torch.linspace(0, drop_path, size.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(width, size.heads, width * size.mlp_ratio, quant, f"blocks.{i}", rate) for i, rate in enumerate(rates)
        )
        self.norm = LayerNorm(width, quant.site("norm"))
        self.head: nn.Linear | Scores
        if size.distilled:
            self.head = nn.Linear(width, num_classes)
            self.head_dist = nn.Linear(width, num_classes)
            for part in (self.head, self.head_dist):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
            self.mean_head = MeanScores((self.head, self.head_dist), quant.site("mean_head"))
        else:
            self.head = Scores(width, num_classes, quant.site("head"))
        finish_construction(self, quant)

    @property
    def scores_layer(self) -> Scores:
        return self.head if isinstance(self.head, Scores) else self.mean_head

    def features(self, images: AnyTensor) -> AnyTensor:
        """Classifier input (B, C): the class token after the last norm; (B, 2C) with the distillation token."""
        patches = self.patch_embed["proj"](self.input(images))  # (B, L, C)
        positions = self.position(self.pos_embed[:, self.leading :], patches, own_range=True)
        token = self.cls_token if self.dist_token is None else torch.cat((self.cls_token, self.dist_token), 1)
        token = token + self.pos_embed[:, : self.leading]
        x = self.embed(patches, positions, joining=token)
        token = self.class_constant(token, x)
        x = concat([token, x], 0, "tokens")  # (B, 1 or 2 + L, C)
        for block in self.blocks:
            x = block(x)
        if self.dist_token is None:
            return self.norm(select(x, 0, 0, "class_token"))
        tokens = gather(x, 0, torch.arange(2, device=self.cls_token.device), "tokens.leading")
        return reshape(self.norm(tokens), "features", 2 * self.pos_embed.shape[2])


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, quant: QuantConfig, name: str, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, quant.site(f"{name}.norm1"))
        self.attn = Attention(width, heads, quant, f"{name}.attn")
        self.add1 = Add(width, quant.site(f"{name}.add1"))
        self.norm2 = LayerNorm(width, quant.site(f"{name}.norm2"))
        self.mlp = Mlp(width, hidden, quant, f"{name}.mlp")
        self.add2 = Add(width, quant.site(f"{name}.add2"))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.add1(self.drop_path(self.attn(self.norm1(x))), x)
        return self.add2(self.drop_path(self.mlp(self.norm2(x))), x)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value have a range each. Yields accumulators."""

    def __init__(self, width: int, heads: int, quant: QuantConfig, name: str) -> None:
        super().__init__()
        site = quant.site(f"{name}.qkv")
        output = Quantizer(site.bits.activation, site.observer.activation, site.observer, groups=3)
        self.qkv = Linear(width, 3 * width, site, output)
        self.core = AttentionCore(width, heads, quant.site(f"{name}.core"))
        self.proj = Linear(width, width, quant.site(f"{name}.proj"))

    def forward(self, x: AnyTensor) -> AnyTensor:
        return self.proj(self.core(self.qkv(x)))


class Mlp(nn.Module):
    """Linear, GELU, linear. Yields accumulators."""

    def __init__(self, width: int, hidden: int, quant: QuantConfig, name: str) -> None:
        super().__init__()
        site, activation = quant.site(f"{name}.fc1"), quant.site(f"{name}.act")
        self.fc1 = Linear(width, hidden, site, GELU.input_quantizer(site, activation))
        self.act = GELU(activation)
        self.fc2 = Linear(hidden, width, quant.site(f"{name}.fc2"))

    def forward(self, x: AnyTensor) -> AnyTensor:
        return self.fc2(self.act(self.fc1(x)))
