"""What models of timm have, as far as the architectures share it, and what of it ours do not compute, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

# Parts with parameters of their own (tokens, positions, biases by position), which ours have by the same names.
HOLDERS = ("VisionTransformer", "VisionTransformerDistilled", "WindowAttention", "LayerScale", "AttentionPoolLatent")
# timm's and torch's activations that ours have, by the names of ours.
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}


def timm_name(model: Any) -> str:
    return str(dict(getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__))


def other_parts(blocks: Iterable[Any], known: set[str]) -> list[str]:
    """Names of the blocks', attentions' and MLPs' classes that are not those of the published architecture."""
    parts = (part for block in blocks for part in (block, getattr(block, "attn", None), getattr(block, "mlp", None)))
    return sorted({type(part).__name__ for part in parts if part is not None} - known)


def classifiers(model: Any) -> list[Any]:
    """The classifier, or the two of a distilled model."""
    if hasattr(model, "head_dist"):
        return [model.head, model.head_dist]
    return [getattr(model.head, "fc", model.head)]


def other_layers(model: nn.Module, without_bias: set[str]) -> list[str]:
    """Layers whose parameters are not the weight and the bias of ours, in words: of blocks that are alike, the first's.

    without_bias: names of layers that have none, as ours.
    """
    found: dict[str, str] = {}  # by what it says of layers of every number
    for name, layer in model.named_modules():
        kind, own = type(layer).__name__, {key for key, _ in layer.named_parameters(recurse=False)}
        expected = {"weight"} if name in without_bias else {"weight", "bias"}
        problem = None
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
            if own and kind not in HOLDERS and ".parametrizations" not in name:
                problem = kind
        elif parametrize.is_parametrized(layer) or own - {"weight", "bias"}:
            problem = f"a weight made of other parameters ({name})"
        elif own - expected:
            problem = f"{name} with a bias"
        elif own != expected:
            problem = f"{name} without {' and '.join(sorted(expected - own))}"
        if problem is not None:
            found.setdefault(re.sub(r"\d+", "N", problem), problem)
    return list(found.values())


def shared_features(model: Any, blocks: Iterable[Any], without_bias: set[str]) -> list[str]:
    """What blocks, norms, patches and the classifier have that ours have not. without_bias: see `other_layers`."""
    blocks, patches, heads = list(blocks), model.patch_embed, classifiers(model)
    others = {type(block.mlp.act).__name__ for block in blocks if activation(block.mlp.act) is None}
    ratios = {block.mlp.fc1.out_features / block.mlp.fc1.in_features for block in blocks}
    found = {
        "images of any size (strict_img_size=False)": patches.img_size is None,
        "patches that are not square": len({*patches.patch_size}) > 1,
        f"the activation {', '.join(sorted(others))}": others,
        "activations that differ among the blocks": len({activation(block.mlp.act) for block in blocks}) > 1,
        f"norms with epsilons {', '.join(map(str, sorted(epsilons(model))))}": len(epsilons(model)) > 1,
        "MLPs of different ratios to the width": len(ratios) > 1,
        "attention with gates": any(getattr(block.attn, "gate", None) is not None for block in blocks),
        "norms of queries and keys": any(
            not identity(getattr(block.attn, name, None)) for block in blocks for name in ("q_norm", "k_norm")
        ),
        "heads narrower or wider than their share of the width": any(
            block.attn.qkv.out_features != 3 * block.attn.qkv.in_features for block in blocks
        ),
        "an MLP that is not linear, activation, linear": any(
            not isinstance(getattr(block.mlp, name, None), nn.Linear) for block in blocks for name in ("fc1", "fc2")
        ),
        "a classifier that is not one linear layer": any(
            not isinstance(head, nn.Linear | nn.Identity) for head in heads
        ),
        "classifiers of different sizes": len({getattr(head, "out_features", 0) for head in heads}) > 1,
    }
    return list(dict.fromkeys([name for name, has in found.items() if has] + other_layers(model, without_bias)))


def epsilons(model: nn.Module) -> set[float]:
    """Of all LayerNorms."""
    return {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}


def activation(module: nn.Module) -> Any:
    """The name that ours have for an activation of timm or torch, None for another."""
    name = type(module).__name__
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        name = "GELUTanh"
    return ACTIVATIONS.get(name)


def identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)
