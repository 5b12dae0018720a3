"""State dicts of Swin from elsewhere: Microsoft's and transformers' layouts, the size one has, another image size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from intvit.models.weights.resampling import Grid, resample_bias_table, square
from intvit.models.weights.transformers_names import in_block, join_qkv

# Of transformers' SwinForImageClassification.
_OUTSIDE = {
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.norm.weight": "patch_embed.norm.weight",
    "embeddings.norm.bias": "patch_embed.norm.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "classifier.weight": "head.fc.weight",
    "classifier.bias": "head.fc.bias",
}
TABLE = "relative_position_bias_table"


def adapt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of Microsoft's, transformers' or I-ViT's Swin with timm's names; one of timm's comes back equal.

    There, merging of patches is the end of a stage, here as in timm the beginning of the next; the classifier of
    Microsoft is `head`, timm's and ours `head.fc`. Keys of none of them stay as they are, for the caller to refuse.
    """
    foreign = any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in state)
    named = join_qkv({_timm_name(key): value for key, value in state.items()}) if foreign else dict(state)
    at_the_end = any(key.startswith("layers.0.downsample.") for key in named)
    return {_moved(key, at_the_end=at_the_end): value for key, value in named.items()}


def _timm_name(key: str) -> str:
    plain = key.removeprefix("swin.")
    if match := re.fullmatch(r"encoder\.(layers\.\d+\.blocks\.\d+)\.(.*)", plain):
        return f"{match[1]}.{in_block(match[2])}"
    if plain.startswith("encoder.layers."):
        return plain.removeprefix("encoder.")
    return _OUTSIDE.get(plain, key)


def _moved(key: str, *, at_the_end: bool) -> str:
    if key in ("head.weight", "head.bias"):
        return key.replace("head.", "head.fc.")
    if at_the_end and (match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.*)", key)):
        return f"layers.{int(match[1]) + 1}.downsample.{match[2]}"
    return key


def traits(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What timm's names and shapes say of a SwinSize; nothing for another architecture."""
    found = {(int(m[1]), int(m[2])) for key in state if (m := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key))}
    patches = state.get("patch_embed.proj.weight")
    if not found or patches is None:
        return {}
    stages = sorted({stage for stage, _ in found})
    return {
        "width": patches.shape[0],
        "depths": tuple(sum(1 for at, _ in found if at == stage) for stage in stages),
        "patch": patches.shape[-1],
    }


def resample(state: Mapping[str, Tensor], model: Any, trained: Grid | None) -> dict[str, Tensor]:
    """`state` with tables of relative positions for the windows of `model`, a SwinTransformer of ours.

    Windows are smaller than usual where the tokens of a stage are fewer. trained: (H, W) of the images that the weights
    are for. Tables of windows that were not square stay as they are, for the caller to refuse.
    """
    resampled = dict(state)
    for name, module in model.named_modules():
        key = f"{name}.{TABLE}"
        own = getattr(module, TABLE, None)
        if own is None or key not in state or state[key].ndim != 2:
            continue
        sides = square(state[key].shape[0])
        height, width = module.window
        same = len(state[key]) == len(own) and (height == width or trained == model.image_size)
        if sides is None or same or (trained is not None and trained[0] != trained[1]):
            continue
        old = ((sides[0] + 1) // 2, (sides[1] + 1) // 2)
        resampled[key] = resample_bias_table(state[key], old, module.window)
    return resampled
