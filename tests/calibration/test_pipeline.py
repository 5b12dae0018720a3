"""Calibration with every step: state, repetition, few images, ranks, and what a mistake looks like."""

from pathlib import Path
from typing import Any

import pytest
import torch

from intvit.calibration import calibrate, offsets, rounding
from intvit.errors import IntVitError
from intvit.evaluation.entry import evaluate
from intvit.quant import set_mode
from intvit.quant.presets import compose_quant
from intvit.training.entry import train
from tests.support.forked_ranks import run_ranks
from tests.support.model_forms import images_for, model_of_form
from tests.support.tiny_runs import composed, state, tiny, train_and_stop


@pytest.mark.parametrize("form", ["vit", "siglip", "swin"])
def test_the_state_holds_everything_and_equal_models_are_calibrated_alike(form: str) -> None:
    models = [model_of_form(form) for _ in range(2)]
    images = images_for(models[0])
    for model in models:
        calibrate(model, images)
    states = [model.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    fresh = model_of_form(form)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(states[0])
    set_mode(fresh.eval(), "integer")
    assert torch.equal(fresh.integer_scores(images), models[0].integer_scores(images))


@pytest.mark.parametrize("sizes", [[1], [2, 3, 1]], ids=["one image", "uneven batches"])
def test_fewer_images_than_asked_for_and_batches_of_any_size_do(sizes: list[int]) -> None:
    model = model_of_form("vit")
    images = images_for(model, sum(sizes))
    calibrate(model, [(batch, None) for batch in images.split(sizes)])
    assert model.integer_scores(images).shape == (sum(sizes), 5)


class Killed(Exception):
    """In the place of a signal."""


@pytest.mark.parametrize(("form", "at"), [("vit", 1), ("vit", 4), ("swin", 9)])
def test_a_killed_calibration_goes_on_behind_its_last_stage_to_the_same_integers(
    form: str, at: int, tmp_path: Path
) -> None:
    whole, file = model_of_form(form), tmp_path / "calibration.pt"
    images, layers = images_for(whole), []
    calibrate(whole, images)

    def kill(_: str, done: int, __: int) -> None:
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        calibrate(model_of_form(form), images, progress=kill, resume=file)
    for_others = calibrate(model_of_form(form), images.flip(0), resume=tmp_path / "missing")
    resumed = calibrate(model_of_form(form), images, progress=lambda _, done, __: layers.append(done), resume=file)
    assert min(layers) > (1 if at > 1 else 0)
    assert not file.exists()
    for model, same in ((resumed, True), (for_others, False)):
        state = model.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items()) == same


@pytest.mark.parametrize("kept", ["images", "config", "broken"])
def test_what_was_kept_of_another_calibration_counts_for_nothing(kept: str, tmp_path: Path) -> None:
    model, file = model_of_form("vit"), tmp_path / "calibration.pt"
    images = images_for(model)

    def kill(_: str, done: int, __: int) -> None:
        if done == 6:
            raise Killed

    other = model_of_form("vit", overrides=["quant.calibration.damping=0.02"] if kept == "config" else None)
    with pytest.raises(Killed):
        calibrate(other, images.flip(0) if kept == "images" else images, progress=kill, resume=file)
    if kept == "broken":
        file.write_bytes(file.read_bytes()[:1000])
    expected = calibrate(model_of_form("vit"), images).state_dict()
    found = calibrate(model, images, resume=file).state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert not file.exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "calibration saw no images; give it some, on every rank"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "the model takes torch.uint8 (B, 3, 16, 24)"),
        (torch.zeros(2, 3, 16, 24), "images are torch.float32"),
    ],
)
def test_wrong_images_are_refused_before_a_parameter_changes(images: Any, message: str) -> None:
    model = model_of_form("vit")
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(IntVitError) as caught:
        calibrate(model, images)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quant.calibration.rotation=random", "quant.calibration.rotation"),
        ("quant.calibration.rounding=ridge", "quant.calibration.rounding"),
        ("quant.calibration.damping=0", "quant.calibration.damping"),
        ("quant.calibration.images=0", "quant.calibration.images"),
        ("quant.bits.gelu_input=9", "quant.bits.gelu_input"),
        ("quant.bits.edges=1", "quant.bits.edges"),
        ("+quant.overrides={head:{calibration:{rounding:gptq}}}", "calibration: expected a group, one of softmax"),
    ],
)
def test_a_wrong_step_or_width_is_one_line(override: str, message: str) -> None:
    with pytest.raises(IntVitError) as caught:
        compose_quant("w4a4", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FEW = ("quant=w4a4", "schedule.qat.epochs=1", "schedule.frozen=null", "quant.calibration.images=16")


def test_a_run_of_four_bits_resumes_exactly_and_exports(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(tiny(*FEW), whole)
    train_and_stop(8, tiny(*FEW), stopped)
    train(tiny(*FEW, "ckpt=last"), stopped)
    expected, resumed = state(whole), state(stopped)
    assert expected.keys() == resumed.keys()
    assert any(key.endswith("fc2.offset") for key in expected)
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []
    values = evaluate(composed(f"ckpt={whole}", "limit=8", config_name="evaluate"))
    assert {name: figures["mismatches"] for name, figures in values["runtimes"].items()} == {"torch": 0, "numpy": 0}


def calibrate_on_an_unlike_processor(rank: int, folder: str) -> None:
    """Rank 1 finds other limits, offsets and codes from the same sums."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = model_of_form("vit")
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            skewed, solve = offsets.skewed_range, rounding.gptq
            patch.setattr(offsets, "skewed_range", lambda *a, **k: tuple(0.9 * each for each in skewed(*a, **k)))
            patch.setattr(rounding, "gptq", lambda *a: solve(*a) + 1)
        calibrate(model, [images_for(model, 8)[rank::2]])
    torch.save(
        {"state": model.state_dict(), "scores": model.integer_scores(images_for(model, 4, 9))}, f"{folder}/{rank}.pt"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.xdist_group("ranks")
def test_ranks_on_unlike_processors_go_on_with_the_integers_of_one(tmp_path: Path) -> None:
    """Each has every other image, as the loader deals them: the steps see all, in their order."""
    assert run_ranks(calibrate_on_an_unlike_processor, str(tmp_path), log=tmp_path / "log") == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"])
    assert torch.equal(first["scores"], second["scores"])
    alone = model_of_form("vit")
    calibrate(alone, images_for(alone, 8))
    for key, value in alone.named_parameters():  # sums of floats in another order, no more
        assert torch.allclose(first["state"][key], value, rtol=1e-4, atol=1e-5), key
