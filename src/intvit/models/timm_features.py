"""What models of timm have, as far as the architectures share it, and what of it ours do not compute, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

# Parts with parameters of their own (tokens, positions, biases by position), which ours have by the same names.
HOLDERS = ("VisionTransformer", "VisionTransformerDistilled", "WindowAttention")


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


def other_layers(model: nn.Module) -> list[str]:
    """Layers whose parameters are not the weight and the bias of ours, in words, one of each kind."""
    found: dict[str, None] = {}
    for name, layer in model.named_modules():
        without_bias = ".attn." in name or name.endswith("downsample.reduction")  # said elsewhere; as ours
        kind, own = type(layer).__name__, {key for key, _ in layer.named_parameters(recurse=False)}
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
            if own and kind not in HOLDERS and ".parametrizations" not in name:
                found[kind] = None
        elif parametrize.is_parametrized(layer) or own - {"weight", "bias"}:
            found[f"a weight made of other parameters ({name})"] = None
        elif own != {"weight", "bias"} and not without_bias:
            found[f"{name} without {' and '.join(sorted({'weight', 'bias'} - own))}"] = None
    return list(found)


def shared_features(model: Any, blocks: Iterable[Any], epsilon: float) -> list[str]:
    """What blocks, norms, patches and the classifier have that ours have not."""
    blocks, patches = list(blocks), model.patch_embed
    modules, heads = list(model.modules()), classifiers(model)
    activations = {type(block.mlp.act).__name__ for block in blocks if not is_gelu(block.mlp.act)}
    epsilons = {module.eps for module in modules if isinstance(module, nn.LayerNorm)} - {epsilon}
    ratios = {block.mlp.fc1.out_features / block.mlp.fc1.in_features for block in blocks}
    found = {
        "images of any size (strict_img_size=False)": patches.img_size is None,
        "patches that are not square": len({*patches.patch_size}) > 1,
        f"the activation {', '.join(sorted(activations))}": activations,
        f"norms with epsilon {', '.join(map(str, sorted(epsilons)))}": epsilons,
        f"an MLP of {min(ratios):.4g} times the width": len(ratios) > 1 or not min(ratios).is_integer(),
        "attention with gates": any(getattr(block.attn, "gate", None) is not None for block in blocks),
        "norms of queries and keys": any(
            not identity(getattr(block.attn, name, None)) for block in blocks for name in ("q_norm", "k_norm", "norm")
        ),
        "heads narrower or wider than their share of the width": any(
            block.attn.qkv.out_features != 3 * block.attn.qkv.in_features for block in blocks
        ),
        "attention without biases": any(
            layer.bias is None for block in blocks for layer in (block.attn.qkv, block.attn.proj)
        ),
        "an MLP that is not linear, activation, linear": any(
            not isinstance(getattr(block.mlp, name, None), nn.Linear) or not identity(getattr(block.mlp, "norm", None))
            for block in blocks
            for name in ("fc1", "fc2")
        ),
        "no classifier (num_classes=0)": any(identity(head) for head in heads),
        "a classifier that is not one linear layer": any(
            not isinstance(head, nn.Linear | nn.Identity) for head in heads
        ),
        "classifiers of different sizes": len({getattr(head, "out_features", 0) for head in heads}) > 1,
    }
    return list(dict.fromkeys([name for name, has in found.items() if has] + other_layers(model)))


def identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def is_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
