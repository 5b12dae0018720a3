"""A model by name with everything that can be left out left out: what a user of the library calls."""

from __future__ import annotations

from typing import Any

from intvit.arguments import as_path, described
from intvit.config.timm_photos import TimmPhotos
from intvit.errors import IntVitError
from intvit.models import registry
from intvit.models.base import ImageModel
from intvit.models.timm_models import TimmModel, timm_model
from intvit.models.weights import load_pretrained, load_weights
from intvit.quant import QuantConfig
from intvit.quant.presets import quant_config

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def models() -> list[str]:
    """Names of the models that `create_model` builds.

    >>> "deit_t" in models()
    True
    """
    return list(registry.MODELS)


def integer_config(quant: Any) -> QuantConfig:
    """`quant_config` of a preset's name or a config. Raises IntVitError for anything else."""
    if not isinstance(quant, str | QuantConfig):
        raise IntVitError(
            f"quant is {described(quant)}; expected a preset, such as 'lut8', or a config of intvit.compose"
        )
    return quant_config(quant)


def create_model(
    name: str,
    *,
    quant: str | QuantConfig = "lut8",
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    num_classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    weights: str | None = None,
    weights_key: str = "auto",
    weights_prefix: str | None = None,
    head: str = "keep",
    resample: bool = False,
    pretrained: bool = False,
    dense: str | None = None,
    **size: Any,
) -> ImageModel:
    """A model in eval and float mode: uint8 images (B, C, H, W), 0..255, not normalized -> logits float32 (B, classes).

    name: one of `intvit.models()`, or timm's name of a VisionTransformer or SwinTransformer, with or without a tag of
    weights, such as "vit_base_patch14_reg4_dinov2.lvd142m". quant: a preset (`intvit.presets()`), with overrides after
    commas, or a config of `intvit.compose`. image_size: in pixels, one number or (height, width). num_classes: 0 gives
    features in place of logits. mean, std: per channel, of pixels scaled to 0..1; the model normalizes. What is None
    of these is timm's for a name of timm's, else 224 pixels, 1000 classes and ImageNet's mean and std. patch_size: None
    for the model's own. weights: a file or the folder of a run, as docs/weights.md lists them. weights_key,
    weights_prefix, head, resample: which part of it, a new classifier, another image size; see `load_weights`.
    pretrained: timm's weights, downloaded. Without either the weights are random. dense: `linear` or `multi` for a head
    that scores every pixel, logits (B, classes, H, W); see docs/segmentation.md. size: fields of the model's size that
    are to be others, such as width, depth and heads.

    Raises IntVitError for an unknown name, preset or keyword, a size that makes no sense, an image size that patches do
    not divide, and weights that do not fit.

    >>> model = create_model("deit_t", quant="ivit8", image_size=32, num_classes=10, depth=2)
    >>> model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([1, 10])
    """
    usual = _usual(name)
    model = registry.create_model(
        name,
        image_size=usual.photos.image_size if image_size is None else image_size,
        patch_size=patch_size,
        num_classes=usual.num_classes if num_classes is None else num_classes,
        mean=usual.photos.mean if mean is None else mean,
        std=usual.photos.std if std is None else std,
        quant=integer_config(quant),
        dense=dense,
        **size,
    )
    assert isinstance(model, ImageModel)
    if pretrained:
        load_pretrained(model, name, head=head, resample=resample)
    if weights is not None:
        path = as_path("weights", weights)
        load_weights(model, path, key=weights_key, prefix=weights_prefix, head=head, resample=resample)
    return model.eval()


def _usual(name: str) -> TimmModel:
    """What is taken where the caller says nothing. Raises IntVitError for an unknown name."""
    size = registry.size_named(name)
    if name not in registry.MODELS:
        return timm_model(name)
    photos = TimmPhotos((224, 224), IMAGENET_MEAN, IMAGENET_STD, 0.875, "bicubic")
    return TimmModel(size, photos, 1000)
