"""A model of timm as one of ours with the same weights. What ours do not compute is refused by name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.build import integer_config
from intvit.models.registry import MODELS, build, per_channel
from intvit.models.weights import load_weights
from intvit.quant import QuantConfig
from intvit.torchvision_fix import ensure_torchvision

VIT_EPSILON, SWIN_EPSILON = 1e-6, 1e-5
# Parts with parameters of their own (tokens, positions, biases by position), which ours have by the same names.
HOLDERS = ("VisionTransformer", "VisionTransformerDistilled", "WindowAttention")


def quantize(
    model: nn.Module,
    quant: str | QuantConfig = "lut8",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageModel:
    """One of our models with the size and the weights of a timm model, in eval and float mode; `calibrate` comes next.

    model: an instance of timm's VisionTransformer (ViT, DeiT, distilled or not) or SwinTransformer; it stays as it is.
    quant: a preset (`intvit.presets()`), with overrides after commas, or a config of `intvit.compose`. mean, std: per
    channel, of pixels scaled to 0..1; None takes them from the model's pretrained_cfg. The result takes uint8 pixels
    (B, C, H, W) and normalizes them itself; its logits are those of the timm model on normalized pixels.

    Raises IntVitError naming every feature of the model that ours do not have, such as LayerScale.

    >>> vit = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    >>> quantize(vit, "ivit8")(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([1, 10])
    """
    ensure_torchvision()
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    form: Any = model
    if type(model) in (VisionTransformer, VisionTransformerDistilled):
        missing, size = _vit_features(form), _vit_size
    elif type(model) is SwinTransformer:
        missing, size = _swin_features(form), _swin_size
    else:
        raise IntVitError(
            f"{type(model).__name__} is none of the architectures that can be quantized: VisionTransformer, "
            "VisionTransformerDistilled and SwinTransformer of timm"
        )
    if missing:
        raise IntVitError(f"{type(model).__name__} with {', '.join(missing)}: not among what intvit computes")
    given = dict(getattr(form, "pretrained_cfg", None) or {})
    mean = per_channel("mean", given.get("mean", ()) if mean is None else mean)
    std = per_channel("std", given.get("std", ()) if std is None else std)
    if len(mean) != form.in_chans or len(std) != form.in_chans:
        raise IntVitError(
            f"{type(model).__name__}: mean {mean} and std {std} for {form.in_chans} channels; say mean= and std="
        )
    made = build(
        size(form),
        image_size=form.patch_embed.img_size[0],
        patch_size=None,
        num_classes=_classifiers(form)[0].out_features,  # num_classes stays timm's where a head has been replaced
        mean=mean,
        std=std,
        quant=integer_config(quant),
    )
    assert isinstance(made, ImageModel)
    load_weights(made, model.state_dict())
    made.provenance = _provenance(given)
    return made.eval()


def _provenance(given: dict[str, Any]) -> dict[str, Any]:
    """Where the weights are from, and how photos are cut for them, for the exported program."""
    name = ".".join(part for key in ("architecture", "tag") if (part := given.get(key)))
    cut = {key: given[key] for key in ("crop_pct", "interpolation") if given.get(key)}
    return copy.deepcopy({"timm": name, "config": {"data": cut}} if name or cut else {})


def _timm_name(model: Any) -> str:
    return str(dict(getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__))


def _vit_size(model: Any) -> Any:
    base: Any = MODELS["deit_t"]
    return dataclasses.replace(
        base,
        timm=_timm_name(model),
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[0].attn.num_heads,
        patch=model.patch_embed.patch_size[0],
        mlp_ratio=model.blocks[0].mlp.fc1.out_features // model.embed_dim,
        distilled=hasattr(model, "head_dist"),
    )


def _swin_size(model: Any) -> Any:
    stages = [stage.blocks for stage in model.layers]
    base: Any = MODELS["swin_t"]
    return dataclasses.replace(
        base,
        timm=_timm_name(model),
        width=model.embed_dim,
        depths=tuple(len(blocks) for blocks in stages),
        heads=tuple(blocks[0].attn.num_heads for blocks in stages),
        patch=model.patch_embed.patch_size[0],
        window=stages[0][0].window_size[0],
        mlp_ratio=stages[0][0].mlp.fc1.out_features // model.embed_dim,
    )


def _vit_features(model: Any) -> list[str]:
    """What a VisionTransformer has and ours has not, in words."""
    if others := _other_parts(model.blocks, {"Block", "Attention", "Mlp"}):
        return others
    if not len(model.blocks):
        return ["no blocks (depth=0)"]
    found = {
        f"global_pool={model.global_pool!r}": model.global_pool != "token" or model.attn_pool is not None,
        "no class token": not model.has_class_token,
        "register tokens": model.num_reg_tokens > 0,
        "no position embedding": model.pos_embed is None,
        "a position embedding that leaves the class token out": model.no_embed_class,
        "a norm before the blocks": not _identity(model.norm_pre),
        "no norm after the blocks": _identity(model.norm),
        "a norm of the pooled features": not _identity(model.fc_norm),
        "LayerScale": any(not _identity(block.ls1) or not _identity(block.ls2) for block in model.blocks),
    }
    return [name for name, has in found.items() if has] + _shared_features(model, model.blocks, VIT_EPSILON)


def _swin_features(model: Any) -> list[str]:
    """What a SwinTransformer has and ours has not, in words."""
    blocks = [block for stage in model.layers for block in stage.blocks]
    if others := _other_parts(blocks, {"SwinTransformerBlock", "WindowAttention", "Mlp"}):
        return others
    if any(not len(stage.blocks) for stage in model.layers):
        return ["a stage without blocks"]
    if type(model.head).__name__ != "ClassifierHead":
        return [f"the head {type(model.head).__name__} instead of timm's ClassifierHead (replace head.fc alone)"]
    found = {
        f"global_pool={model.head.global_pool.pool_type!r}": model.head.global_pool.pool_type != "avg",
        "dynamic_img_size": model.dynamic_img_size,
        "windows that are not square": any(block.window_size[0] != block.window_size[1] for block in blocks),
        "windows even where one holds all tokens": any(block.always_partition for block in blocks),
        "window sizes that differ among the stages": any(
            block.window_size[0] != min(blocks[0].window_size[0], block.input_resolution[0]) for block in blocks
        ),
    }
    named = [name for name, has in found.items() if has]
    return named + _shared_features(model, blocks, SWIN_EPSILON)


def _other_parts(blocks: Iterable[Any], known: set[str]) -> list[str]:
    """Names of the blocks', attentions' and MLPs' classes that are not those of the published architecture."""
    parts = (part for block in blocks for part in (block, getattr(block, "attn", None), getattr(block, "mlp", None)))
    return sorted({type(part).__name__ for part in parts if part is not None} - known)


def _classifiers(model: Any) -> list[Any]:
    """The classifier, or the two of a distilled model."""
    if hasattr(model, "head_dist"):
        return [model.head, model.head_dist]
    return [getattr(model.head, "fc", model.head)]


def _other_layers(model: nn.Module) -> list[str]:
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


def _shared_features(model: Any, blocks: Iterable[Any], epsilon: float) -> list[str]:
    """What blocks, norms, patches and the classifier have that ours have not."""
    blocks, patches = list(blocks), model.patch_embed
    modules, heads = list(model.modules()), _classifiers(model)
    activations = {type(block.mlp.act).__name__ for block in blocks if not _is_gelu(block.mlp.act)}
    epsilons = {module.eps for module in modules if isinstance(module, nn.LayerNorm)} - {epsilon}
    ratios = {block.mlp.fc1.out_features / block.mlp.fc1.in_features for block in blocks}
    found = {
        "images or patches that are not square": len({*(patches.img_size or (0, 1))}) > 1
        or len({*patches.patch_size}) > 1,
        f"the activation {', '.join(sorted(activations))}": activations,
        f"norms with epsilon {', '.join(map(str, sorted(epsilons)))}": epsilons,
        f"an MLP of {min(ratios):.4g} times the width": len(ratios) > 1 or not min(ratios).is_integer(),
        "attention with gates": any(getattr(block.attn, "gate", None) is not None for block in blocks),
        "norms of queries and keys": any(
            not _identity(getattr(block.attn, name, None)) for block in blocks for name in ("q_norm", "k_norm", "norm")
        ),
        "heads narrower or wider than their share of the width": any(
            block.attn.qkv.out_features != 3 * block.attn.qkv.in_features for block in blocks
        ),
        "attention without biases": any(
            layer.bias is None for block in blocks for layer in (block.attn.qkv, block.attn.proj)
        ),
        "an MLP that is not linear, activation, linear": any(
            not isinstance(getattr(block.mlp, name, None), nn.Linear) or not _identity(getattr(block.mlp, "norm", None))
            for block in blocks
            for name in ("fc1", "fc2")
        ),
        "no classifier (num_classes=0)": any(_identity(head) for head in heads),
        "a classifier that is not one linear layer": any(
            not isinstance(head, nn.Linear | nn.Identity) for head in heads
        ),
        "classifiers of different sizes": len({getattr(head, "out_features", 0) for head in heads}) > 1,
    }
    return list(dict.fromkeys([name for name, has in found.items() if has] + _other_layers(model)))


def _identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _is_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
