"""The steps before the ranges leave the float function what it is, for every form of model, alone and together."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from intvit.calibration import calibrate
from intvit.calibration.dataflow import Dataflow
from intvit.calibration.heads import hadamard
from intvit.calibration.pipeline import reparametrize
from intvit.calibration.rotation import random_rotation, rotate
from intvit.models import load_weights
from intvit.models.base import ImageModel
from intvit.quant import set_mode
from intvit.quant.layers import GELU, LayerNorm, Linear
from tests.support.model_forms import FORMS, images_for, model_of_form

STEPS: dict[str, Any] = {
    "rotation": "orthogonal",
    "centering": True,
    "heads": "hadamard",
    "offsets": True,
    "equalization": "search",
}
OFF: dict[str, Any] = {
    "rotation": "none",
    "centering": False,
    "heads": "none",
    "offsets": False,
    "equalization": "none",
}


@torch.no_grad()
def distance(model: ImageModel, images: torch.Tensor, before: torch.Tensor) -> float:
    """Of the float scores, relative to the largest."""
    set_mode(model, "float")
    return float((model(images) - before).abs().max() / before.abs().max())


@torch.no_grad()
def reparametrized(model: ImageModel, images: torch.Tensor, **steps: Any) -> float:
    before = model(images)
    reparametrize(model, replace(model.quant.calibration, **{**OFF, **steps}), images.split(3))
    return distance(model, images, before)


@pytest.mark.parametrize("zeros", [False, True], ids=["gammas of both signs", "some gammas zero"])
@pytest.mark.parametrize("form", FORMS)
def test_all_steps_together_leave_the_float_function(form: str, zeros: bool) -> None:
    model = model_of_form(form, zeros=zeros)
    error = reparametrized(model, images_for(model), **STEPS)
    assert error < 1e-5


@pytest.mark.parametrize("form", ["vit", "siglip", "swin"])
@pytest.mark.parametrize("step", STEPS)
def test_every_step_alone_changes_parameters_and_leaves_the_float_function(form: str, step: str) -> None:
    model = model_of_form(form)
    before = [parameter.clone() for parameter in model.parameters()]
    error = reparametrized(model, images_for(model), **{step: STEPS[step]})
    assert error < 1e-5
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_every_stream_that_begins_and_ends_in_linear_layers_is_rotated(form: str) -> None:
    model = model_of_form(form)
    assert rotate(model, Dataflow(model)) == FORMS[form][3]


def test_norms_that_read_a_rotated_stream_have_neither_scale_nor_shift_left() -> None:
    model = model_of_form("vit")
    rotate(model, Dataflow(model))
    norms = [layer for layer in model.modules() if isinstance(layer, LayerNorm)]
    assert len(norms) == 5
    assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize("channels", [2, 3, 24, 65])
def test_rotations_are_orthogonal_and_keep_the_mean(channels: int) -> None:
    matrix = random_rotation(channels, seed=3)
    ones = torch.ones(channels, dtype=torch.float64)
    assert (matrix @ matrix.t() - torch.eye(channels)).abs().max() < 1e-12
    assert (matrix @ ones - ones).abs().max() < 1e-12
    assert torch.equal(matrix, random_rotation(channels, seed=3))


@pytest.mark.parametrize(("size", "block"), [(1, 1), (3, 1), (6, 2), (8, 8), (12, 4), (64, 64)])
def test_heads_of_every_size_are_turned_as_far_as_their_size_is_even(size: int, block: int) -> None:
    matrix = hadamard(size)
    assert (matrix @ matrix.t() - torch.eye(size)).abs().max() < 1e-12
    assert bool(((matrix != 0).sum(1) == block).all())


def offsets(model: ImageModel) -> list[torch.Tensor]:
    found = [layer.offset for layer in model.modules() if isinstance(layer, Linear)]
    found += [layer.before for layer in model.modules() if isinstance(layer, GELU)]
    return [offset for offset in found if offset is not None]


@pytest.mark.parametrize("form", ["vit", "inner norms", "swin"])
def test_a_second_calibration_starts_from_the_float_function_as_it_is(form: str) -> None:
    model = model_of_form(form)
    images = images_for(model)
    with torch.no_grad():
        before = model(images)
    for _ in range(2):
        calibrate(model, images)
        scores = model.integer_scores(images) * model.score_scale
        assert torch.nn.functional.cosine_similarity(scores.flatten(), before.flatten(), 0) > 0.8
        assert distance(model, images, before) < 2e-5
        assert offsets(model)


def test_nothing_of_an_earlier_calibration_stays_where_another_is_asked_for() -> None:
    model = model_of_form("vit")
    images = images_for(model)
    with torch.no_grad():
        before = model(images)
    calibrate(model, images)
    plain = replace(model.quant.calibration, **OFF, rounding="nearest", reconstruction=0)
    model.quant = replace(model.quant, calibration=plain)
    calibrate(model, images)
    assert offsets(model) == []
    assert all(layer.rounding is None for layer in model.modules() if isinstance(layer, Linear))
    assert distance(model, images, before) < 2e-5


def test_a_norm_of_zeros_alone_gets_a_range() -> None:
    """Padded windows take no offsets, so that its output stays zero and no clip is a share of it."""
    model = model_of_form("swin")
    block = model.layers[0].blocks[0]
    with torch.no_grad():
        block.norm1.weight.zero_()
        block.norm1.bias.zero_()
    images = images_for(model)
    calibrate(model, images)
    assert bool(torch.isfinite(model.integer_scores(images).double()).all())
    assert 0 < float(block.norm1.output.scale()) < float("inf")


def test_weights_of_a_calibrated_run_are_taken_with_its_offsets(tmp_path) -> None:
    model = model_of_form("vit")
    images = images_for(model)
    with torch.no_grad():
        before = model(images)
    calibrate(model, images)
    torch.save({"state_dict": model.state_dict(), "intvit": {}}, tmp_path / "last.ckpt")
    other = model_of_form("vit", "lut8")
    load_weights(other, tmp_path / "last.ckpt")
    assert distance(other, images, before) < 2e-5
    calibrate(other, images)
    assert offsets(other) == []
    assert distance(other, images, before) < 2e-5
