"""How the weights behind a name of timm's want their photos: what timm's own config of that name says."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from intvit.errors import IntVitError

PREFIX = "timm/"  # may stand before a name of timm's


@dataclass(frozen=True)
class TimmPhotos:
    """image_size: height and width in pixels. mean, std: per channel, of pixels scaled to 0..1.

    crop_pct: share of the resized shorter side that evaluation keeps. interpolation: of that resize.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str


@functools.cache
def timm_photos(name: str) -> TimmPhotos:
    """Of a name with or without a tag of weights, such as `vit_base_patch14_reg4_dinov2.lvd142m`; downloads nothing.

    Raises IntVitError for a name and for a tag that timm does not have.
    """
    timm = import_timm()
    if not timm_has(name):
        raise IntVitError(
            f"model.name={name}: no model of timm {timm.__version__}; timm.list_models('*vit*') lists names"
        )
    try:
        config = timm.get_pretrained_cfg(bare_name(name), allow_unregistered=False)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{bare_name(name).partition('.')[0]}.*")) or "none"
        raise IntVitError(f"model.name={name}: no weights of that tag in timm; there are {tags}") from error
    return TimmPhotos(
        tuple(config.input_size[1:]), tuple(config.mean), tuple(config.std), config.crop_pct, config.interpolation
    )


def timm_photo_value(name: str, key: str) -> Any:
    """A field of `timm_photos` as plain values, for a config: a side of a square image as one number."""
    value = getattr(timm_photos(name), key)
    if key == "image_size" and value[0] == value[1]:
        return value[0]
    return list(value) if isinstance(value, tuple) else value


def timm_has(name: str) -> bool:
    """Whether timm has a model of this name, whatever the tag of weights."""
    return bool(import_timm().is_model(bare_name(name)))


def bare_name(name: str) -> str:
    """The name without `timm/` before it."""
    return name.removeprefix(PREFIX)


def import_timm() -> Any:
    """The module; it is slow to import, and needs a torchvision that fits."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    import timm

    return timm
