"""ViT, DeiT, CLIP, SigLIP, DINOv2 and others: what feeds what, for float, integer and recording.

Parameters have timm's names. What the members of the family differ in is a field of `VisionTransformerSize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.models.base import ImageModel, patch_grid
from intvit.models.dense import DECODER_BLOCKS, check_dense, tapped_blocks
from intvit.models.vit.blocks import AttentionPool, Block
from intvit.models.vit.checkpoints import resample, timm_names
from intvit.models.vit.mask_transformer import MaskTransformer
from intvit.models.vit.weights import adapt
from intvit.quant import QuantConfig, finish_construction
from intvit.quant.layers import (
    Add,
    DenseScores,
    Features,
    InputQuantize,
    LayerNorm,
    LearnedConstant,
    MaskScores,
    MeanPool,
    MeanScores,
    PatchEmbed,
    Scores,
)
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, concat, gather, narrow, reshape, select


@dataclass(frozen=True)
class VisionTransformerSize:
    """width C, depth and heads of one member of the family; patch is its usual patch size; timm: its name there.

    Tokens are the class token, the distillation token and the registers, as far as there are any, then the patches.
    """

    timm: str
    width: int
    depth: int
    heads: int
    patch: int = 16
    mlp_ratio: float = 4.0
    distilled: bool = False  # a second token with its own classifier; the scores are the mean of both
    class_token: bool = True
    registers: int = 0  # further tokens, which nothing reads at the end
    prefix_positions: bool = True  # the tokens before the patches have position embeddings, too
    pre_norm: bool = False  # LayerNorm before the blocks, and a patch embedding without bias (CLIP)
    qkv_bias: bool = True
    proj_bias: bool = True  # of attention's last layer and of both layers of the MLP
    inner_norms: bool = False  # LayerNorm before the last layer of attention and of the MLP (BEiT-3)
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] = "gelu"
    pool: Literal["token", "avg", "map"] = "token"  # class token, mean of the tokens, attention pooling
    pool_prefix: bool = False  # avg and map take the tokens before the patches, too
    norm: Literal["before", "after", "none"] = "before"  # the last LayerNorm: before the pooling, after it
    epsilon: float = 1e-6  # of the float LayerNorm

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return self.class_token + self.distilled + self.registers

    @property
    def hidden(self) -> int:
        """Width between the layers of the MLP, cut to a whole number as timm does."""
        return int(self.width * self.mlp_ratio + 1e-6)  # a ratio read from a model may be rounded down

    def build(self, *, dense: str | None = None, **options: Any) -> nn.Module:
        self._check(classifies=options["num_classes"] > 0)
        if dense is None:
            return VisionTransformer(self, **options)
        return DenseVisionTransformer(self, dense=dense, **options)

    def _check(self, classifies: bool) -> None:
        wrong = {
            "distilled: needs a class token, pool=token, norm=before and a classifier": self.distilled
            and not (self.class_token and self.pool == "token" and self.norm == "before" and classifies),
            "pool=token: needs a class token": self.pool == "token" and not self.class_token,
            "pool=map: needs norm=before": self.pool == "map" and self.norm != "before",
            "norm=none: the class token goes to no classifier without a norm; say num_classes=0": self.norm == "none"
            and self.pool == "token"
            and classifies,
        }
        for problem, met in wrong.items():
            if met:
                raise IntVitError(problem)


class VisionTransformer(ImageModel):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes); in integer mode logits are scores * score_scale.

    Without classes (num_classes=0) the pooled features (B, C) take the logits' place.
    """

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
        self.size, width, patches = size, size.width, math.prod(patch_grid(image_size, patch))
        self.input = InputQuantize(mean, std, quant.site("input", edge=True))
        site = quant.site("patch_embed.proj", edge=True)
        embedding = PatchEmbed(self.channels, width, patch, site, bias=not size.pre_norm)
        self.patch_embed = nn.ModuleDict({"proj": embedding})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if size.class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width)) if size.distilled else None
        self.reg_token = nn.Parameter(torch.zeros(1, size.registers, width)) if size.registers else None
        self.positioned = size.prefix if size.prefix_positions else 0  # tokens before the patches with a position
        positions = torch.empty(1, self.positioned + patches, width)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(positions, std=0.02))
        if size.prefix:
            self.class_constant = LearnedConstant(quant.site("class_constant"))
        self.position = LearnedConstant(quant.site("position"))
        self.embed = Add(width, quant.site("embed"))
        form: dict[str, Any] = {"epsilon": size.epsilon}
        if size.pre_norm:
            self.norm_pre = LayerNorm(width, quant.site("norm_pre"), stream=True, **form)
        form |= {"activation": size.activation, "inner_norms": size.inner_norms}
        form |= {"qkv_bias": size.qkv_bias, "bias": size.proj_bias}
        rates = torch.linspace(0, drop_path, size.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(width, size.heads, size.hidden, quant, f"blocks.{i}", rate, **form) for i, rate in enumerate(rates)
        )
        self._build_end(size, num_classes, quant)
        finish_construction(self, quant)

    def _build_end(self, size: VisionTransformerSize, num_classes: int, quant: QuantConfig) -> None:
        """Last norm, pooling, and what makes scores of the features."""
        width, classifies = size.width, num_classes > 0
        if size.norm == "before":
            last = size.pool == "token" and not classifies  # features leave as wide as a stream
            self.norm = LayerNorm(width, quant.site("norm", edge=size.pool != "map"), stream=last, epsilon=size.epsilon)
        if size.pool == "map":
            output = Quantizer.of_activation(quant.site("attn_pool.add", edge=True)) if classifies else None
            form = size.activation, size.epsilon, output
            self.attn_pool = AttentionPool(width, size.heads, size.hidden, quant, "attn_pool", *form)
        if size.pool == "avg" and size.norm == "after":
            self.pool = MeanPool(Quantizer.of_stream(width, quant.site("pool")))
        elif size.pool == "avg":
            self.pool = MeanPool(Quantizer.of_activation(quant.site("pool", edge=True)) if classifies else None)
        if size.norm == "after":
            site = quant.site("fc_norm", edge=True)
            self.fc_norm = LayerNorm(width, site, stream=not classifies, epsilon=size.epsilon)
        self.head: nn.Linear | Scores | MaskScores | Features
        if size.distilled:
            self.head = nn.Linear(width, num_classes)
            self.head_dist = nn.Linear(width, num_classes)
            for part in (self.head, self.head_dist):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
            self.mean_head = MeanScores((self.head, self.head_dist), quant.site("mean_head", edge=True))
        else:
            self.head = Scores(width, num_classes, quant.site("head", edge=True)) if classifies else Features()

    @property
    def scores_layer(self) -> Scores | MaskScores | Features:
        return self.mean_head if isinstance(self.head, nn.Linear) else self.head

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `intvit.models.vit.weights.adapt`."""
        return adapt(timm_names(state), self)

    def resample(self, state: Mapping[str, Tensor], trained: tuple[int, int] | None) -> dict[str, Tensor]:
        """See `intvit.models.vit.checkpoints.resample`."""
        return resample(state, self, trained)

    def stages(self) -> list[Callable[[AnyTensor], AnyTensor]]:
        """See ImageModel; the end is (B, C), or (B, 2C) with the distillation token."""
        return [self._embedded, *self.blocks, self._pooled]

    def stream_constants(self) -> list[nn.Parameter]:
        """Tokens and position embeddings."""
        parts = self.cls_token, self.dist_token, self.reg_token, self.pos_embed
        return [part for part in parts if part is not None]

    def _embedded(self, images: AnyTensor) -> AnyTensor:
        """All tokens (B, prefix + L, C) as the first block reads them."""
        patches = self.patch_embed["proj"](self.input(images))  # (B, L, C)
        positions = self.position(self.pos_embed[:, self.positioned :], patches, own_range=True)
        tokens: list[Tensor] = [
            token for token in (self.cls_token, self.dist_token, self.reg_token) if token is not None
        ]
        if tokens:
            token = tokens[0] if len(tokens) == 1 else torch.cat(tokens, 1)
            if self.positioned:
                token = token + self.pos_embed[:, : self.positioned]
            x = self.embed(patches, positions, joining=token)
            x = concat([self.class_constant(token, x), x], 0, "tokens")
        else:
            x = self.embed(patches, positions)
        return self.norm_pre(x) if self.size.pre_norm else x

    def _pooled(self, x: AnyTensor) -> AnyTensor:
        """Features of the last block's output."""
        size = self.size
        if size.distilled:
            tokens = gather(x, 0, torch.arange(2, device=self.pos_embed.device), "tokens.leading")
            return reshape(self.norm(tokens), "features", 2 * size.width)
        if size.pool == "token":
            x = select(x, 0, 0, "class_token")
        elif size.prefix and not size.pool_prefix:
            x = narrow(x, 0, size.prefix, size.prefix + self.pos_embed.shape[1] - self.positioned, "tokens.patches")
        if size.norm == "before":
            x = self.norm(x)
        if size.pool == "map":
            x = self.attn_pool(x)
        elif size.pool == "avg":
            x = self.pool(x)
        return self.fc_norm(x) if size.norm == "after" else x


class DenseVisionTransformer(VisionTransformer):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes, H, W). dense: the head, see `intvit.models.dense`.

    Parameters are timm's; `head` is a linear layer (classes, C), or (classes, 4 C) with `norms` before it; or it and
    `decoder` are Segmenter's.
    """

    def __init__(self, size: VisionTransformerSize, *, dense: str, **options: Any) -> None:
        self.dense = dense
        super().__init__(size, **options)

    def _build_end(self, size: VisionTransformerSize, num_classes: int, quant: QuantConfig) -> None:
        wrong = {
            "two classifiers": size.distilled,
            "attention pooling": size.pool == "map",
            "no norm before its pooling": size.norm != "before",
        }
        if named := [name for name, has in wrong.items() if has]:
            raise IntVitError(f"task.head={self.dense}: {size.timm} has {named[0]}; choose one like deit_t or vit_s")
        embedding = self.patch_embed["proj"]
        assert isinstance(embedding, PatchEmbed)
        patch = embedding.patch
        grid = check_dense(self.dense, num_classes, self.image_size, patch)
        self.taps = tapped_blocks(size.depth) if self.dense == "multi" else (size.depth - 1,)
        self.norm = LayerNorm(size.width, quant.site("norm", edge=True), epsilon=size.epsilon)
        self.norms = nn.ModuleList(
            LayerNorm(size.width, quant.site(f"norms.{i}", edge=True), epsilon=size.epsilon)
            for i in range(len(self.taps) - 1)
        )
        for each in self.norms:
            each.output = self.norm.output  # one scale for what the head reads side by side
        if self.dense == "mask":
            form = {"width": size.width, "depth": DECODER_BLOCKS, "heads": size.heads}
            self.decoder = MaskTransformer(size.width, num_classes, quant, "decoder", **form)
            self.head = MaskScores(size.width, num_classes, quant, "head", grid=grid, factor=patch)
            return
        width = size.width * len(self.taps)
        self.head = DenseScores(width, num_classes, quant.site("head", edge=True), grid=grid, factor=patch)

    def stages(self) -> list[Callable[[AnyTensor], AnyTensor]]:
        """See ImageModel; the end is (B, h*w, C), or (B, h*w, 4 C). What several taps read is one stage."""
        first = self.taps[0]
        return [self._embedded, *self.blocks[:first], self._tapped] if len(self.taps) > 1 else super().stages()

    def _tapped(self, x: AnyTensor) -> AnyTensor:
        """From the block of the first tap on."""
        parts: list[AnyTensor] = []
        output = self.norm.output
        since = len(output.observed)
        for number in range(self.taps[0], len(self.blocks)):
            x = self.blocks[number](x)
            if number in self.taps[:-1]:
                parts.append(self.norms[len(parts)](self._patches(x, f"tokens.{number}")))
        parts.append(self._pooled(x))
        output.join_observed(since)
        return concat(parts, 1, "tokens.joined")

    def _pooled(self, x: AnyTensor) -> AnyTensor:
        x = self.norm(self._patches(x, "tokens.patches"))
        return self.decoder(x) if self.dense == "mask" else x

    def _patches(self, x: AnyTensor, name: str) -> AnyTensor:
        prefix = self.size.prefix
        return narrow(x, 0, prefix, prefix + self.pos_embed.shape[1] - self.positioned, name) if prefix else x
