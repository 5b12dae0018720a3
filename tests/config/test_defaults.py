"""Every default stands once: in conf/, and in a typed class only as null for a key that some preset leaves out."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf.errors import OmegaConfBaseException

from intvit.config.presets import config_directory
from intvit.config.values import TypedConfig, build
from intvit.data.presets import photo_config
from intvit.errors import IntVitError, one_line
from intvit.evaluation.config import EvaluateConfig
from intvit.models import MODELS
from intvit.quant.config import SiteConfig, family_options
from intvit.quant.presets import compose_quant
from intvit.training.config import TrainConfig, train_config
from tests.support.tiny_runs import composed

PPOLY = {"segments": 8, "degree": 2, "coefficient_bits": 16}


def typed_classes(kind: type[TypedConfig] = TypedConfig) -> set[type[Any]]:
    return {part for child in kind.__subclasses__() for part in {child, *typed_classes(child)}}


CLASSES = sorted((kind for kind in typed_classes() if dataclasses.is_dataclass(kind)), key=lambda kind: kind.__name__)


def test_the_classes_of_both_commands_are_looked_at() -> None:
    assert {TrainConfig, EvaluateConfig, SiteConfig} < set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_typed_class_has_no_default_but_null(kind: type[Any]) -> None:
    for part in dataclasses.fields(kind):
        assert part.default_factory is dataclasses.MISSING, part.name
        assert part.default in (dataclasses.MISSING, None), part.name


def test_a_class_has_null_only_for_keys_that_some_preset_leaves_out() -> None:
    config = composed()  # quant=ivit8, data=digits
    whole: dict[str, Any] = {"": config, "model": config["model"], "data": config["data"], **config["schedule"]}
    for group in ("optimizer", "trainer", "logger", "callbacks"):
        whole[group] = config[group]
    given = {key for values in whole.values() for key in values or ()}
    optional = {part.name for kind in CLASSES for part in dataclasses.fields(kind) if part.default is None}
    families = {"paper", "segments", "degree", "coefficient_bits"}
    photos = {"crop_scale", "crop_ratio", "interpolation", "horizontal_flip", "color_jitter", "auto_augment", "scale"}
    assert optional == {"width", "depth", "heads", "layer_decay", "vector_lr_ratio"} | families | photos
    assert not (optional - {"interpolation"}) & given  # of data, which train_transform has as well


@pytest.mark.parametrize("group", ["model", "quant", "data", "schedule"])
def test_what_a_group_shares_stands_in_its_base_alone(group: str) -> None:
    """A preset says what differs: no line of base.yaml stands in another file of the group."""
    lines = {
        path.stem: {line.split(" #")[0].rstrip() for line in path.read_text().splitlines() if ": " in line}
        for path in (config_directory() / group).glob("*.yaml")
    }
    base = {line for line in lines.pop("base") if not line.startswith(("  - ", "#"))}
    with_own_reason = {"qat: null", "root: null"}
    for name, own in lines.items():
        assert own & base <= with_own_reason, name


def test_every_size_of_an_architecture_has_its_config_and_the_reverse() -> None:
    assert {path.stem for path in (config_directory() / "model").glob("*.yaml")} == {*MODELS, "base", "timm"}


@pytest.mark.parametrize(
    ("base", "key"), [("model=base", "model.name"), ("quant=base", "quant.name"), ("data=base", "data.name")]
)
def test_a_base_is_none_to_choose(base: str, key: str) -> None:
    with pytest.raises(OmegaConfBaseException) as raised:
        composed(base)
    assert one_line(raised.value) == f"{key}: missing, and has no default; say {key}=VALUE"


@pytest.mark.parametrize(
    ("override", "options"),
    [
        ("quant.gelu.family=ppoly", PPOLY),
        ("+quant.overrides={blocks.*: {gelu: {family: ppoly}}}", PPOLY),
        ("+quant.overrides={blocks.*: {gelu: {family: ppoly, segments: 4}}}", {**PPOLY, "segments": 4}),
        ("quant.gelu.family=ivit", {"paper": False}),
        ("quant/gelu=ivit_paper", {"paper": True}),
        ("quant.gelu.family=silu", {}),
    ],
)
def test_a_family_chosen_without_its_options_has_those_of_its_preset(override: str, options: dict[str, Any]) -> None:
    assert family_options(compose_quant("lut8", [override]).site("blocks.0.mlp.act").gelu) == options


def test_random_changes_of_photos_are_all_said_or_none() -> None:
    with pytest.raises(
        IntVitError, match=r"crop_scale: missing, kind=photo needs it; data/train_transform=photo has all"
    ):
        train_config(composed("data.train_transform.kind=photo"))
    changed = train_config(composed("data/train_transform=photo")).data.train_transform
    assert changed == train_config(composed("data=imagenet", "data.image_size=8")).data.train_transform


def test_a_data_set_of_ones_own_says_what_differs_from_base(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [base, _self_]\nname: mine\nnum_classes: 3\n")
    data = train_config(composed("data=mine", f"hydra.searchpath=[{tmp_path}]")).data
    assert data == replace(photo_config(), name="mine", num_classes=3, class_names="indices")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": "two"}, "trainer.devices=two: expected an integer or a list of integers"),
        ({"devices": [0, "x"]}, "trainer.devices=[0, 'x']: expected an integer or a list of integers"),
        ({"devices": True}, "trainer.devices=True: expected an integer or a list of integers"),
        ({"num_nodes": 0}, "trainer.num_nodes=0: expected at least 1"),
        ({"num_nodes": 1.5}, "trainer.num_nodes=1.5: expected an integer"),
        ({"precision": "64"}, "trainer.precision=64: unknown, expected one of 32-true, bf16-mixed, 16-mixed"),
        ({"acelerator": "cpu"}, "trainer.acelerator: unknown key; did you mean accelerator?"),
    ],
)
def test_messages_name_key_value_and_what_is_expected(changes: dict[str, Any], message: str) -> None:
    config = composed()
    with pytest.raises(IntVitError) as raised:
        build(TrainConfig, {**config, "trainer": {**config["trainer"], **changes}})
    assert str(raised.value) == message
