"""model=timm: size of images, normalization, crop and interpolation are timm's for the name, unless said otherwise."""

from pathlib import Path

import pytest

from intvit.config.presets import compose_run
from intvit.errors import IntVitError
from intvit.training.config import TrainConfig, train_config

NAME = "model.name=vit_base_patch32_siglip_256.v2_webli"


def composed(*overrides: str) -> TrainConfig:
    return train_config(compose_run(["model=timm", "data=imagenette", "data.root=DIR", *overrides])[0])


def test_photos_are_prepared_as_timm_says_of_the_name() -> None:
    config = composed(NAME)
    assert (config.model.mean, config.model.std) == ((0.5,) * 3, (0.5,) * 3)
    data = config.data
    assert (data.image_size, data.mean, data.crop_pct, data.interpolation) == ((256, 256), (0.5,) * 3, 0.9, "bicubic")
    assert data.num_classes == config.model.num_classes == composed("model.name=deit_tiny_patch16_224").data.num_classes


def test_what_the_command_line_says_of_photos_stands() -> None:
    config = composed(NAME, "data.image_size=[64,96]", "data.mean=[0.4,0.4,0.4]", "data.crop_pct=0.8")
    assert (config.model.image_size, config.model.mean) == ((64, 96), (0.4,) * 3)
    assert (config.data.crop_pct, config.data.std) == (0.8, (0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "model.name=nope: no model of timm"),
        ("deit_tiny_patch16_224.x", "no weights of that tag in timm; there are deit_tiny_patch16_224.fb_in1k"),
    ],
)
def test_a_name_that_timm_lacks_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntVitError) as caught:
        composed(f"model.name={name}")
    assert message in str(caught.value)
    assert "interpolation" not in str(caught.value)
