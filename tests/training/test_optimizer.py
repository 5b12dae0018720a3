"""Which parameters decay, and how fast the blocks of a model learn under a layer decay."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intvit.errors import IntVitError
from intvit.models import MODELS
from intvit.models.weights import is_classifier
from intvit.quant.layers import Linear
from intvit.training.config import train_config
from intvit.training.optimizer import build_optimizer, distances_from_classifier, set_rates
from tests.support.foreign_weights import small
from tests.support.presets import quant_of
from tests.support.registry_models import model_of
from tests.support.tiny_runs import composed

DEMO, FINETUNE = (train_config(composed(f"schedule={name}")) for name in ("demo", "finetune"))


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_tokens_positions_norms_and_biases_do_not(name: str) -> None:
    model = model_of(name, "lut8")
    groups = build_optimizer(model, DEMO.optimizer, DEMO.schedule).param_groups
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    decaying, others = ({names[id(p)] for p in group["params"]} for group in groups)
    assert decaying == {key for key in names.values() if key.endswith(".weight") and "norm" not in key}
    assert decaying | others == set(names.values())


@pytest.mark.parametrize("name", ["deit_t_distilled", "swin_t"])
def test_learned_steps_do_not_decay_and_learn_at_the_rate_of_their_block(name: str) -> None:
    model = model_of(name, "w4a8", quant=quant_of("w4a8", ["quant/observer=learned"]))
    steps = {id(step) for step in model.learned_steps()}
    assert len(steps) == sum(isinstance(layer, Linear) for layer in model.modules())
    decaying, others = build_optimizer(model, DEMO.optimizer, DEMO.schedule).param_groups
    assert not steps & {id(parameter) for parameter in decaying["params"]}
    assert steps <= {id(parameter) for parameter in others["params"]}
    distances = distances_from_classifier(model)
    for key in (key for key in distances if key.endswith(".clip")):
        weight = key.removesuffix("clip") + "weight"
        assert distances[key] == (0 if key.startswith("mean_head.") else distances[weight])


@pytest.mark.parametrize("name", ["deit_t_distilled", "swin_t"])
def test_under_a_layer_decay_rates_fall_from_the_classifier_to_the_embedding(name: str) -> None:
    model = small(name, depths=(1, 2)) if name == "swin_t" else small(name, depth=3)
    optimizer = build_optimizer(model, FINETUNE.optimizer, FINETUNE.schedule)
    phase = FINETUNE.schedule.float
    assert phase is not None
    assert phase.layer_decay == 0.75
    set_rates(optimizer, phase, 1.0)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    first, second, last = ("layers.0.blocks.0", "layers.1.blocks.0", "layers.1.blocks.1")
    if name != "swin_t":
        first, second, last = ("blocks.0", "blocks.1", "blocks.2")
    for key, rate in rates.items():
        if key.startswith(last):
            assert rate == 0.75
        elif key.startswith((second, "layers.1.downsample")):
            assert rate == 0.75**2
        elif key.startswith(first):
            assert rate == 0.75**3
        else:
            assert rate == (1.0 if is_classifier(key) or key.startswith("norm.") else 0.75**4), key
    assert optimizer.param_groups[0]["lr"] == 1.0  # which is logged
    assert {group["weight_decay"] for group in optimizer.param_groups if group["decays"]} == {phase.weight_decay}


@pytest.mark.parametrize(("ratio", "expected"), [(None, 0.5), (20.0, 10.0), (0.0, 0.0)])
def test_what_is_not_rounded_learns_at_its_own_rate(ratio: float | None, expected: float) -> None:
    model = model_of("deit_t", "lut8")
    phase = replace(DEMO.schedule.qat, vector_lr_ratio=ratio)
    optimizer = build_optimizer(model, DEMO.optimizer, DEMO.schedule)
    set_rates(optimizer, phase, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, expected]


def test_every_parameter_of_every_model_has_its_distance() -> None:
    for name in ("vit_s", "swin_s"):
        model = model_of(name, "lut8")
        distances = distances_from_classifier(model)
        assert distances.keys() == dict(model.named_parameters()).keys()
        assert set(distances.values()) == set(range(max(distances.values()) + 1))


def test_the_documented_line_takes_another_optimizer_and_none_of_adamw_s_options() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "training.md").read_text().split())
    line = "optimizer=base +optimizer.target=torch.optim.SGD +optimizer.options.momentum=0.9"
    assert line in page
    config = train_config(composed(*line.split()))
    optimizer = build_optimizer(small(), config.optimizer, config.schedule)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_options_of_another_optimizer_are_refused_in_one_line_with_the_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for target, reason in (("torch.optim.SGD", "'betas'; to begin without options: optimizer=base "), ("no.X", "no.X")):
        with pytest.raises(IntVitError, match=f"optimizer.target={target} .*{reason}"):
            build_optimizer(small(), replace(DEMO.optimizer, target=target), DEMO.schedule)
    assert caplog.records == []
