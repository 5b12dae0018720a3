"""The size of a VisionTransformer of timm, and what it has that ours has not."""

from __future__ import annotations

from typing import Any

from intvit.models.timm_features import activation, epsilons, identity, other_parts, shared_features, timm_name
from intvit.models.vit.network import VisionTransformerSize


def size_of(model: Any) -> VisionTransformerSize:
    """Of an instance of one of TIMM's classes that lacks nothing."""
    block = model.blocks[0]
    return VisionTransformerSize(
        timm=timm_name(model),
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=block.attn.num_heads,
        patch=model.patch_embed.patch_size[0],
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
        distilled=hasattr(model, "dist_token"),
        class_token=model.has_class_token,
        registers=model.num_reg_tokens,
        prefix_positions=not model.no_embed_class,
        pre_norm=not identity(model.norm_pre),
        qkv_bias=block.attn.qkv.bias is not None,
        proj_bias=block.attn.proj.bias is not None,
        inner_norms=not identity(block.attn.norm),
        activation=activation(block.mlp.act),
        pool=model.global_pool,
        pool_prefix=model.pool_include_prefix,
        norm="before" if not identity(model.norm) else "none" if identity(model.fc_norm) else "after",
        epsilon=next(iter(epsilons(model)), 1e-6),
    )


def missing_features(model: Any) -> list[str]:
    """What a VisionTransformer has and ours has not, in words."""
    if others := other_parts(model.blocks, {"Block", "Attention", "Mlp"}):
        return others
    if not len(model.blocks):
        return ["no blocks (depth=0)"]
    pool, before, after = model.global_pool, not identity(model.norm), not identity(model.fc_norm)
    inner = {not identity(norm) for block in model.blocks for norm in (block.attn.norm, block.mlp.norm)}
    found = {
        f"global_pool={pool!r}": pool not in ("token", "avg", "map"),
        "no position embedding": model.pos_embed is None,
        "a norm in the patch embedding": not identity(model.patch_embed.norm),
        "norms both before and after the pooling": before and after,
        "a classifier of a class token without a norm": pool == "token"
        and not (before or after)
        and not identity(model.head),
        "attention pooling of tokens without a norm": pool == "map" and not before,
        "a norm inside attention or the MLP alone": len(inner) > 1,
    }
    if hasattr(model, "dist_token"):
        found["distillation with registers, without a class token's norm or without a classifier"] = (
            model.num_reg_tokens > 0 or model.no_embed_class or not before or identity(model.head)
        )
    missing = [name for name, has in found.items() if has] + _missing_in_pool(model)
    return missing + shared_features(model, model.blocks, _without_bias(model))


def _missing_in_pool(model: Any) -> list[str]:
    pool = model.attn_pool
    if pool is None:
        return []
    if type(pool).__name__ != "AttentionPoolLatent":
        return [f"the pooling {type(pool).__name__}"]
    found = {
        "several queries": pool.latent_len > 1,
        "position embeddings": pool.pos_embed is not None,
        "norms of queries and keys": not identity(pool.q_norm) or not identity(pool.k_norm),
        "a query without a projection": identity(pool.q),
        "no norm or no MLP": identity(pool.norm) or pool.mlp is None,
        "other heads or another width than attention's": pool.num_heads != model.blocks[0].attn.num_heads
        or pool.out_features != model.embed_dim
        or pool.latent_dim != model.embed_dim,
        "an MLP of another width or activation than the blocks'": pool.mlp is not None
        and (
            pool.mlp.fc1.out_features != model.blocks[0].mlp.fc1.out_features
            or activation(pool.mlp.act) != activation(model.blocks[0].mlp.act)
        ),
    }
    return [f"attention pooling with {name}" for name, has in found.items() if has]


def _without_bias(model: Any) -> set[str]:
    """Layers that ours build without a bias for a model of this kind, too: all blocks' alike."""
    names: set[str] = set() if identity(model.norm_pre) else {"patch_embed.proj"}
    first = model.blocks[0]
    parts = [] if first.attn.qkv.bias is not None else ["attn.qkv"]
    if first.attn.proj.bias is None:
        parts += ["attn.proj", "mlp.fc1", "mlp.fc2"]
    return names | {f"blocks.{i}.{part}" for i in range(len(model.blocks)) for part in parts}
