"""The data presets compose into a checked config; mistakes are named."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from intvit.config.values import build
from intvit.data.classes import class_names
from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from tests.support.synthetic_shards import PHOTOS, config

CONF = Path(__file__).parents[2] / "conf"


def preset(name: str, *overrides: str) -> DataConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose(overrides=[f"+data={name}", *overrides])
    return build(DataConfig, OmegaConf.to_container(composed, resolve=True)["data"], "data")


def test_digits_preset_fits_the_digits():
    data = preset("digits")
    assert (data.image_size, data.patch_size, data.num_classes) == ((8, 8), 4, 10)
    assert class_names(data) == list("0123456789")


@pytest.mark.parametrize("name", ["imagenet", "imagenette"])
def test_imagenet_presets_have_a_thousand_named_classes(name):
    data = preset(name, "data.root=somewhere")
    assert (data.name, data.root, data.image_size, data.patch_size) == (name, "somewhere", (224, 224), None)
    assert data.train_transform.auto_augment == "rand-m9-mstd0.5-inc1"
    names = class_names(data)
    assert len(names) == 1000
    assert names[0].startswith("tench")


def test_names_fall_back_to_indices_without_timm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm.data.imagenet_info", None)
    assert class_names(preset("imagenet"))[:3] == ["0", "1", "2"]


def test_the_runs_seed_is_the_datas_seed():
    assert preset("digits").seed == 0
    assert preset("digits", "+seed=7").seed == 7


def test_presets_spell_out_every_key():
    from dataclasses import fields

    assert set(PHOTOS()) == {field.name for field in fields(DataConfig)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clases": 5}, r"^data.num_clases: unknown key; did you mean num_classes"),
        ({"batch_size": 0}, r"^data.batch_size=0: expected at least 1$"),
        ({"batch_size": "8"}, r"^data.batch_size=8: expected an integer$"),
        ({"workers": -1}, r"^data.workers=-1: expected at least 0$"),
        ({"patch_size": 3}, r"^data.patch_size=3: does not divide data.image_size=4$"),
        ({"image_size": [6, 8], "patch_size": 4}, r"^data.patch_size=4: does not divide data.image_size=\[6,8\]$"),
        (
            {"image_size": [6, 8, 3]},
            r"^data.image_size=\[6, 8, 3\]: expected a whole number of at least 1, or \[height,",
        ),
        (
            {"image_size": [6, 0]},
            r"^data.image_size=\[6, 0\]: expected a whole number of at least 1, or \[height, width",
        ),
        ({"image_size": 0}, r"^data.image_size=0: expected a whole number of at least 1, or \[height, width\]$"),
        ({"image_size": True}, r"^data.image_size=True: expected a whole number"),
        ({"image_size": "8"}, r"^data.image_size=8: expected a whole number"),
        ({"crop_pct": 1.1}, r"^data.crop_pct=1.1: "),
        ({"interpolation": "cubic"}, r"^data.interpolation=cubic: unknown, expected one of nearest"),
        ({"mean": 0.5}, r"^data.mean=0.5: expected a list of numbers$"),
        ({"std": [0.5, 0.5, 0.0]}, r"std above 0$"),
        ({"class_names": "digits"}, r"^data.class_names=digits has 10 names but data.num_classes=5; "),
        ({"seed": -1}, r"^data.seed=-1: "),
        ({"train_transform": {"kind": "mixup"}}, r"^data.train_transform.kind=mixup: unknown"),
        ({"train_transform": {"flip": 1}}, r"^data.train_transform.flip: unknown key"),
        ({"train_transform": {"crop_scale": [0.5]}}, r"^data.train_transform.crop_scale="),
        ({"train_transform": "none"}, r"^data.train_transform=none: expected a group of keys$"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(changes, message):
    with pytest.raises(IntVitError, match=message) as raised:
        config(None, **changes)
    assert "\n" not in str(raised.value)


def test_a_missing_key_is_named():
    with pytest.raises(
        IntVitError, match=r"^data.image_size: missing, expected a whole number of at least 1, or \[height, width\]$"
    ):
        build(DataConfig, {"name": "digits"}, "data")
