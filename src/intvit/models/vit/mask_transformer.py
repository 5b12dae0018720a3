"""Segmenter's mask transformer (arXiv 2105.05633): class tokens join those of the patches, and blocks mix them.

What makes scores of its output is `intvit.quant.layers.MaskScores`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from intvit.models.vit.blocks import Block
from intvit.quant import QuantConfig
from intvit.quant.layers import LayerNorm, LearnedConstant, Linear
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import AnyTensor, concat


class MaskTransformer(nn.Module):
    """Normalized patch tokens (B, N, inputs) -> normalized tokens (B, N + classes, width), patches first.

    Parameters are called as Segmenter's decoder calls them: proj_dec, cls_emb, blocks, decoder_norm. Class tokens take
    the range of the projected patches, which calibration makes wide enough for them.
    """

    def __init__(
        self, inputs: int, classes: int, quant: QuantConfig, name: str, *, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        site, self.name = quant.site(f"{name}.proj_dec"), name
        self.proj_dec = Linear(inputs, width, site, Quantizer.of_stream(width, site))
        self.cls_emb = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, classes, width), std=0.02))
        self.class_constant = LearnedConstant(quant.site(f"{name}.class_constant"))
        form: dict[str, Any] = {"activation": "gelu", "epsilon": 1e-6}
        form |= {"qkv_bias": True, "bias": True, "inner_norms": False}
        self.blocks = nn.ModuleList(
            Block(width, heads, 4 * width, quant, f"{name}.blocks.{i}", 0.0, **form) for i in range(depth)
        )
        self.decoder_norm = LayerNorm(width, quant.site(f"{name}.decoder_norm", edge=True))

    def forward(self, x: AnyTensor) -> AnyTensor:
        x = self.proj_dec(x)
        if self.proj_dec.calibrating and self.proj_dec.output is not None:
            self.proj_dec.output.collect(self.cls_emb)
        x = concat([x, self.class_constant(self.cls_emb, x)], 0, f"{self.name}.tokens")
        for block in self.blocks:
            x = block(x)
        return self.decoder_norm(x)
