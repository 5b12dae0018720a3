"""Calibration: ranks agree, means of float outputs are kept, the classifier and the float function are left alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.quant import quantizer, set_mode
from intvit.quant.layers import Linear, Scores, linear
from tests.support.forked_ranks import run_ranks
from tests.support.small_models import differences, random_images, small_model


def means(model: nn.Module, images: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
    """Mean output per channel of every linear layer, before any requantization."""
    found = {}

    def keep(layer: Linear, inputs: tuple, output: object) -> None:
        if mode == "float":
            found[layer.name] = output.flatten(0, -2).double().mean(0)
        else:
            codes = layer.accumulate(layer.operand(inputs[0]))
            found[layer.name] = codes.values.flatten(0, -2).double().mean(0) * codes.scale

    hooks = [layer.register_forward_hook(keep) for layer in linears(model)]
    set_mode(model, mode)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def linears(model: nn.Module) -> list[Linear]:
    return [layer for layer in model.modules() if isinstance(layer, Linear) and not isinstance(layer, Scores)]


def test_means_of_the_float_outputs_are_kept() -> None:
    errors = {}
    images = random_images(16, 0)
    for correction in ("true", "false"):
        model = small_model("ivit_paper", [f"quant.observer.bias_correction={correction}"])
        calibrate(model, [images])
        real, integer = means(model, images, "float"), means(model, images, "integer")
        errors[correction] = {name: float((integer[name] - real[name]).abs().mean()) for name in real}
    assert len(errors["true"]) == 1 + 4 * 2
    for name, uncorrected in errors["false"].items():
        assert errors["true"][name] < 0.1 * uncorrected, name


def test_float_outputs_and_the_classifier_stay(tmp_path) -> None:
    model, images = small_model("ivit8", ["quant/observer=corrected"]), random_images(8, 1)
    with torch.no_grad():
        before = model.eval()(images)
        calibrate(model, images.split(3))
        assert model.head.correction.abs().max() == 0
        assert all(layer.correction.abs().max() > 0 for layer in linears(model))
        set_mode(model, "float")
        assert torch.equal(model(images), before)
    set_mode(model, "integer")
    assert differences(model, images, tmp_path / "integer") == []


def test_corrections_are_part_of_the_state() -> None:
    presets = ["quant/observer=corrected"]
    model, copy, images = small_model("ivit8", presets), small_model("ivit8", seed=1), random_images(8, 1)
    calibrate(model, [images])
    copy.load_state_dict(model.state_dict())
    set_mode(copy.eval(), "integer")
    assert torch.equal(copy.integer_scores(images), model.integer_scores(images))


def calibrate_on_an_unlike_processor(rank: int, folder: str) -> None:
    """Rank 1 finds other clip limits from the same sums, as a processor with another order of additions would."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = small_model("w4a8")
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(linear, "weight_clip", lambda weight, bits: torch.full(weight.shape[:1], 0.5))
            patch.setattr(quantizer, "mse_limit", lambda histogram, bits: 0.123)
        calibrate(model, [random_images(8, rank)])
    scores = model.integer_scores(random_images(4, 9))
    torch.save({"state": model.state_dict(), "scores": scores}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_on_unlike_processors_go_on_with_the_same_integers(tmp_path: Path) -> None:
    assert run_ranks(calibrate_on_an_unlike_processor, str(tmp_path), log=tmp_path / "log") == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"])
    assert torch.equal(first["scores"], second["scores"])
