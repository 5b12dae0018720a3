"""Bias correction: the means of float outputs are kept, the classifier and the float function are left alone."""

import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.quant import set_mode
from intvit.quant.layers import Linear, Scores
from tests.support.small_models import differences, random_images, small_model


def means(model: nn.Module, images: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
    """Mean output per channel of every linear layer, before any requantization."""
    found = {}

    def keep(layer: Linear, inputs: tuple, output: object) -> None:
        if mode == "float":
            found[layer.name] = output.flatten(0, -2).double().mean(0)
        else:
            codes = layer.accumulate(layer.patches(*inputs) if hasattr(layer, "patches") else inputs[0])
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
