"""ViT and DeiT: what feeds what, stated once for float, integer and recording. Parameters have timm's names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.models.drop_path import DropPath
from intvit.quant import QuantConfig, finish_construction
from intvit.quant.layers import GELU, Add, AttentionCore, Constant, InputQuantize, LayerNorm, Linear, PatchEmbed, Scores
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import QTensor, Value, concat, select


@dataclass(frozen=True)
class VisionTransformerSize:
    """width C, depth and heads of one member of the family; patch is its usual patch size."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    mlp_ratio: int = 4


class VisionTransformer(nn.Module):
    """Images uint8 (B, 3, H, W) -> logits float32 (B, classes); in integer mode logits are scores * score_scale."""

    def __init__(
        self,
        size: VisionTransformerSize,
        *,
        image_size: int,
        patch_size: int | None,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        quant: QuantConfig,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        patch = patch_size or size.patch
        if image_size % patch:
            raise IntVitError(
                f"model.image_size={image_size} is not divisible by model.patch_size={patch}; "
                f"choose a multiple, such as {image_size - image_size % patch or patch}"
            )
        self.image_size, self.channels, self.num_classes = image_size, len(mean), num_classes
        width, tokens = size.width, (image_size // patch) ** 2
        self.input = InputQuantize(mean, std, quant.site("input"))
        self.patch_embed = nn.ModuleDict(
            {"proj": PatchEmbed(self.channels, width, patch, quant.site("patch_embed.proj"))}
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens + 1, width), std=0.02))
        self.class_constant = Constant(quant.site("class_constant"))
        self.position = Constant(quant.site("position"))
        self.embed = Add(width, quant.site("embed"))
        rates = torch.linspace(0, drop_path, size.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(width, size.heads, width * size.mlp_ratio, quant, f"blocks.{i}", rate) for i, rate in enumerate(rates)
        )
        self.norm = LayerNorm(width, quant.site("norm"))
        self.head = Scores(width, num_classes, quant.site("head"))
        finish_construction(self, quant)

    def features(self, images: Value) -> Value:
        """Classifier input (B, C): the class token after the last norm."""
        patches = self.patch_embed["proj"](self.input(images))  # (B, L, C)
        positions = self.position(self.pos_embed[:, 1:], patches, own_range=True)
        token = self.cls_token + self.pos_embed[:, :1]
        x = self.embed(patches, positions, joining=token)
        token = self.class_constant(token, x)
        x = concat([token, x], 0, "tokens")  # (B, 1 + L, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(select(x, 0, 0, "class_token"))

    def forward(self, images: Value) -> Value:
        """Logits; a Symbol image records the program and yields its scores."""
        if isinstance(images, Tensor):
            self.check_images(images)
        return self.head(self.features(images))

    def check_images(self, images: Tensor) -> None:
        """Raise IntVitError unless images are uint8 (B, 3, H, W) of the model's size."""
        expected = (self.channels, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise IntVitError(
                f"images are {images.dtype} {tuple(images.shape)}; the model takes torch.uint8 (B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}): check data.image_size and model.image_size"
            )

    @torch.no_grad()
    def integer_scores(self, images: Tensor) -> Tensor:
        """int32 scores (B, classes) in integer mode; equal to every runtime's."""
        self.check_images(images)
        return self.head.scores(self._integer_features(images)).values

    @property
    def score_scale(self) -> float:
        """Real value of one score step in integer mode."""
        probe = torch.zeros(1, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        with torch.no_grad():
            return self.head.score_scale(self._integer_features(probe.to(self.cls_token.device)))

    def _integer_features(self, images: Tensor) -> QTensor:
        features = self.features(images)
        if not isinstance(features, QTensor):
            raise IntVitError("integer scores need integer mode: calibrate first, then set_mode(model, 'integer')")
        return features


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

    def forward(self, x: Value) -> Value:
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

    def forward(self, x: Value) -> Value:
        return self.proj(self.core(self.qkv(x)))


class Mlp(nn.Module):
    """Linear, GELU, linear. Yields accumulators."""

    def __init__(self, width: int, hidden: int, quant: QuantConfig, name: str) -> None:
        super().__init__()
        site, activation = quant.site(f"{name}.fc1"), quant.site(f"{name}.act")
        self.fc1 = Linear(width, hidden, site, GELU.input_quantizer(site, activation))
        self.act = GELU(activation)
        self.fc2 = Linear(hidden, width, quant.site(f"{name}.fc2"))

    def forward(self, x: Value) -> Value:
        return self.fc2(self.act(self.fc1(x)))
