"""Key names of Hugging Face's transformers as timm's: what its ViT, DeiT and Swin share.

Both its names on disk, `encoder.layer.0.attention.attention.query`, and those that version 5 has in memory,
`layers.0.attention.q_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Inside a block. Query, key and value are joined afterwards; `output.dense` of the attention comes before the MLP's.
_IN_BLOCK = (
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.(?:attention|self)\.(query|key|value)\.", r"attn.\1."),
    (r"attention\.q_proj\.", "attn.query."),
    (r"attention\.k_proj\.", "attn.key."),
    (r"attention\.v_proj\.", "attn.value."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"attention\.(?:self|relative_position_bias)\.relative_position_bias_table", "attn.relative_position_bias_table"),
    (r"(?:intermediate\.dense|mlp\.fc1)\.", "mlp.fc1."),
    (r"(?:output\.dense|mlp\.fc2)\.", "mlp.fc2."),
)
_PARTS = ("query", "key", "value")


def in_block(name: str) -> str:
    """timm's name for a key of transformers, both from the block on: `output.dense.bias` -> `mlp.fc2.bias`."""
    for pattern, own in _IN_BLOCK:
        renamed, count = re.subn(f"^{pattern}", own, name)
        if count:
            return renamed
    return name


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`attn.query`, `attn.key` and `attn.value`, where all three are there, as one `attn.qkv`: rows in this order."""
    joined = dict(state)
    for key in state:
        if match := re.fullmatch(r"(.*attn\.)query\.(weight|bias)", key):
            names = [f"{match[1]}{part}.{match[2]}" for part in _PARTS]
            if all(name in state for name in names):
                joined[f"{match[1]}qkv.{match[2]}"] = torch.cat([joined.pop(name) for name in names])
    return joined
