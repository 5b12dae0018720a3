"""State dicts as other code bases name them, made from one of ours: the reverse of what is read."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from intvit.models import create_model
from tests.support.presets import quant_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
State = dict[str, Tensor]


def small(name: str = "deit_t", **changes: Any) -> nn.Module:
    """A model of one or two blocks whose parameters are all different and random."""
    size = {"depths": (1, 2), "heads": (1, 2), "width": 8} if name.startswith("swin") else {"depth": 1, "width": 16}
    if not name.startswith("swin"):
        size["heads"] = 2
    options: dict[str, Any] = {"image_size": 32, "patch_size": None, "num_classes": 5, "mean": MEAN, "std": STD}
    model = create_model(name, **{**options, "quant": quant_of("lut8"), **size, **changes})
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def parameters(model: nn.Module) -> State:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def as_transformers(state: State, base: str) -> State:
    """Names on disk of transformers 5.24 and before, as its save_pretrained writes them. base: vit, deit or swin."""
    named: State = {}
    for key, value in state.items():
        if "attn.qkv." in key:
            block, _, kind = key.partition("attn.qkv.")
            inner = "attention.self." if base == "swin" else "attention.attention."
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                named[_transformers_block(block, base) + f"{inner}{part}.{kind}"] = rows
        else:
            named[_transformers_name(key, base)] = value
    return named


def _transformers_block(block: str, base: str) -> str:
    return f"{base}.encoder.{block}" if base == "swin" else f"{base}.encoder.{block.replace('blocks', 'layer')}"


_INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def _transformers_name(key: str, base: str) -> str:
    if match := re.fullmatch(r"((?:layers\.\d+\.)?blocks\.\d+\.)(.*?)((?:\.weight|\.bias)?)", key):
        return _transformers_block(match[1], base) + _INSIDE[match[2]] + match[3]
    if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.*)", key):
        return f"swin.encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"
    heads = ("cls_classifier", "distillation_classifier") if base == "deit" else ("classifier", "")
    outside = {
        "cls_token": f"{base}.embeddings.cls_token",
        "dist_token": f"{base}.embeddings.distillation_token",
        "pos_embed": f"{base}.embeddings.position_embeddings",
        "patch_embed.proj": f"{base}.embeddings.patch_embeddings.projection",
        "patch_embed.norm": f"{base}.embeddings.norm",
        "norm": f"{base}.layernorm",
        "head": heads[0],
        "head.fc": heads[0],
        "head_dist": heads[1],
    }
    if key in outside:
        return outside[key]
    module, _, kind = key.rpartition(".")
    return f"{outside[module]}.{kind}"


def as_microsoft(state: State) -> State:
    """Swin as github.com/microsoft/Swin-Transformer saves it: merging ends a stage, buffers beside the parameters."""
    named: State = {}
    for key, value in state.items():
        moved = re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        named[moved.replace("head.fc.", "head.")] = value
        if key.endswith("relative_position_bias_table"):
            named[key.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.int64)
            named[f"{key.partition('attn.')[0]}attn_mask"] = torch.zeros(4, 49, 49)
    return named


def with_ivit_ranges(state: State) -> State:
    """What the published I-ViT code keeps beside the weights of DeiT: github.com/zkkli/I-ViT, models/vit_quant.py."""
    named = {**state, "qact_input.act_scaling_factor": torch.ones(1)}
    for block in {key.partition(".norm1")[0] for key in state if ".norm1" in key}:
        named[f"{block}.qact1.act_scaling_factor"] = torch.ones(1)
        named[f"{block}.qact1.min_val"] = torch.zeros(1)
        named[f"{block}.norm1.norm_scaling_factor"] = torch.ones(1)
        named[f"{block}.norm1.bias_integer"] = state[f"{block}.norm1.bias"].round()
        named[f"{block}.attn.qkv.fc_scaling_factor"] = torch.ones(1)
        named[f"{block}.attn.qkv.weight_integer"] = state[f"{block}.attn.qkv.weight"].round()
        named[f"{block}.attn.int_softmax.act_scaling_factor"] = torch.ones(1)
    return named
