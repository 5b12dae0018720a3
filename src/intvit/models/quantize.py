"""A model of timm as one of ours with the same weights. What ours do not compute is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.build import integer_config
from intvit.models.registry import build, per_channel
from intvit.models.timm_features import classifiers
from intvit.models.timm_models import architecture_of
from intvit.models.weights import load_weights
from intvit.quant import QuantConfig


def quantize(
    model: nn.Module,
    quant: str | QuantConfig = "lut8",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageModel:
    """One of our models with the size and the weights of a timm model, in eval and float mode; `calibrate` comes next.

    model: an instance of timm's VisionTransformer (ViT, DeiT, CLIP, SigLIP, DINOv2, ...), VisionTransformerDistilled or
    SwinTransformer; it stays as it is. One without a classifier (num_classes=0) gives features, and so does ours.
    quant: a preset (`intvit.presets()`), with overrides after commas, or a config of `intvit.compose`. mean, std: per
    channel, of pixels scaled to 0..1; None takes them from the model's pretrained_cfg. The result takes uint8 pixels
    (B, C, H, W) and normalizes them itself; its logits are those of the timm model on normalized pixels.

    Raises IntVitError naming every feature of the model that ours do not have, such as SwiGLU.

    >>> vit = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    >>> quantize(vit, "ivit8")(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([1, 10])
    """
    form: Any = model
    architecture = architecture_of(model)
    given = dict(getattr(form, "pretrained_cfg", None) or {})
    mean = per_channel("mean", given.get("mean", ()) if mean is None else mean)
    std = per_channel("std", given.get("std", ()) if std is None else std)
    if len(mean) != form.in_chans or len(std) != form.in_chans:
        raise IntVitError(
            f"{type(model).__name__}: mean {mean} and std {std} for {form.in_chans} channels; say mean= and std="
        )
    made = build(
        architecture.size_of(form),
        image_size=form.patch_embed.img_size,
        patch_size=None,
        num_classes=getattr(classifiers(form)[0], "out_features", 0),  # timm's own stays where a head has been replaced
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
