"""A model by name with everything that can be left out left out: what a user of the library calls."""

from __future__ import annotations

from typing import Any

from intvit.arguments import as_path, described
from intvit.errors import IntVitError
from intvit.models import registry
from intvit.models.base import ImageModel
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
    image_size: int | tuple[int, int] = 224,
    patch_size: int | None = None,
    num_classes: int = 1000,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    weights: str | None = None,
    pretrained: bool = False,
    **size: Any,
) -> ImageModel:
    """A model in eval and float mode: uint8 images (B, C, H, W), 0..255, not normalized -> logits float32 (B, classes).

    name: one of `intvit.models()`. quant: a preset (`intvit.presets()`), with overrides after commas, or a config of
    `intvit.compose`. image_size: in pixels, one number or (height, width). patch_size: None for the model's own. mean,
    std: per channel, of pixels scaled to 0..1; the model normalizes. weights: a file with timm's key names
    (.safetensors, .pth). pretrained: timm's ImageNet weights, downloaded. Without either the weights are random. size:
    fields of the model's size that are to be others, such as width, depth and heads.

    Raises IntVitError for an unknown name, preset or keyword, a size that makes no sense, an image size that patches do
    not divide, and weights that do not fit.

    >>> model = create_model("deit_t", quant="ivit8", image_size=32, num_classes=10, depth=2)
    >>> model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([1, 10])
    """
    model = registry.create_model(
        name,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=mean,
        std=std,
        quant=integer_config(quant),
        **size,
    )
    assert isinstance(model, ImageModel)
    if pretrained:
        load_pretrained(model, name)
    if weights is not None:
        load_weights(model, as_path("weights", weights))
    return model.eval()
