"""The size of a SwinTransformer of timm, and what it has that ours has not."""

from __future__ import annotations

from typing import Any

from intvit.models.swin.network import EPSILON, SwinSize
from intvit.models.timm_features import activation, epsilons, identity, other_parts, shared_features, timm_name


def size_of(model: Any) -> SwinSize:
    """Of an instance of TIMM's class that lacks nothing."""
    stages = [stage.blocks for stage in model.layers]
    return SwinSize(
        timm=timm_name(model),
        width=model.embed_dim,
        depths=tuple(len(blocks) for blocks in stages),
        heads=tuple(blocks[0].attn.num_heads for blocks in stages),
        patch=model.patch_embed.patch_size[0],
        window=_window(model),
        mlp_ratio=stages[0][0].mlp.fc1.out_features / model.embed_dim,
    )


def missing_features(model: Any) -> list[str]:
    """What a SwinTransformer has and ours has not, in words."""
    blocks = [block for stage in model.layers for block in stage.blocks]
    if others := other_parts(blocks, {"SwinTransformerBlock", "WindowAttention", "Mlp"}):
        return others
    if any(not len(stage.blocks) for stage in model.layers):
        return ["a stage without blocks"]
    if type(model.head).__name__ != "ClassifierHead":
        return [f"the head {type(model.head).__name__} instead of timm's ClassifierHead (replace head.fc alone)"]
    found = {
        f"global_pool={model.head.global_pool.pool_type!r}": model.head.global_pool.pool_type != "avg",
        "dynamic_img_size": model.dynamic_img_size,
        "windows even where one holds all tokens": any(block.always_partition for block in blocks),
        "windows that are not square, or differ within a stage": any(
            size != min(window, side)
            for window, stage in zip(_windows(model), model.layers, strict=True)
            for block in stage.blocks
            for size, side in zip(block.window_size, block.input_resolution, strict=True)
        ),
    }
    reductions = {f"layers.{i}.downsample.reduction" for i in range(1, len(model.layers))}
    found |= {
        f"the activation {type(blocks[0].mlp.act).__name__}": activation(blocks[0].mlp.act) != "gelu",
        "norms with another epsilon than 1e-05": epsilons(model) != {EPSILON},
        "inner norms": any(not identity(getattr(block.mlp, "norm", None)) for block in blocks),
    }
    named = [name for name, has in found.items() if has]
    return named + shared_features(model, blocks, reductions)


def _windows(model: Any) -> list[int]:
    """Side of the windows of every stage; timm keeps it only where the tokens are more, else their own number."""
    return [max(stage.blocks[0].window_size) for stage in model.layers]


def _window(model: Any) -> int | tuple[int, ...]:
    """One side for all stages, as far as they are large enough, or one for each."""
    windows = _windows(model)
    sides = [max(stage.blocks[0].input_resolution) for stage in model.layers]
    same = all(window == min(windows[0], side) for window, side in zip(windows, sides, strict=True))
    return windows[0] if same else tuple(windows)
