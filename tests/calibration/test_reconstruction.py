"""Block reconstruction: nearer to float on photos that it did not see, the same float function, the same every time."""

import torch

from intvit.calibration import calibrate
from intvit.quant import set_mode
from intvit.quant.tensor import QTensor
from tests.support.presets import quant_of
from tests.support.registry_models import model_of, reduced
from tests.support.registry_models import random_images as images_of
from tests.support.small_models import differences, random_images, small_model

PASSES = "quant.calibration.reconstruction={}"


def calibrated(passes: int, frozen: bool = False) -> torch.nn.Module:
    model = small_model("w4a4", [PASSES.format(passes)]).requires_grad_(not frozen)
    return calibrate(model, [random_images(64, 0)])


def block_outputs(model: torch.nn.Module, images: torch.Tensor, mode: str) -> list[torch.Tensor]:
    """Real outputs of every block in one mode."""
    outputs: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, inputs, x: outputs.append(x.real() if isinstance(x, QTensor) else x))
        for block in model.blocks
    ]
    set_mode(model, mode)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return outputs


def test_it_brings_blocks_nearer_to_the_float_ones_and_leaves_the_float_function(tmp_path) -> None:
    """On images that it did not see. Scores of a random model on noise go either way, by the processor."""
    images, errors, floats = random_images(64, 1), {}, {}
    for passes in (0, 8):
        model = calibrated(passes)
        floats[passes], integer = (block_outputs(model, images, mode) for mode in ("float", "integer"))
        errors[passes] = [float((a - b).square().mean()) for a, b in zip(integer, floats[passes], strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(floats[0], floats[8], strict=True))
    assert all(learned < 0.95 * rounded for learned, rounded in zip(errors[8], errors[0], strict=True))
    assert differences(model, images[:4], tmp_path / "integer") == []


def test_equal_images_give_equal_integers_also_where_a_phase_had_frozen_the_weights() -> None:
    first, second = calibrated(1), calibrated(1, frozen=True)
    assert all(parameter.requires_grad for parameter in first.parameters())
    assert not any(parameter.requires_grad for parameter in second.parameters())
    for (name, one), (_, other) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_a_calibration_inside_of_inference_mode_gives_the_same() -> None:
    inside = small_model("w4a4", [PASSES.format(1)])
    with torch.inference_mode():
        calibrate(inside, [random_images(64, 0)])
    expected = calibrated(1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in inside.state_dict().items())


def test_a_swin_is_reconstructed_stage_by_stage() -> None:
    model = model_of("swin_t", "w4a4", quant=quant_of("w4a4", [PASSES.format(2)]))
    images, seen = images_of(4, reduced("swin_t")[0]), []
    calibrate(model, [images], progress=lambda *report: seen.append(report))
    assert seen[-1][1] == seen[-1][2]
    assert torch.isfinite(model(images)).all()


def test_it_also_goes_on_from_weights_that_were_rounded_to_the_nearest() -> None:
    images = random_images(32, 0)
    first, second = (
        calibrate(small_model("w4a8", [PASSES.format(passes), "quant.calibration.rounding=nearest"]), [images])
        for passes in (0, 1)
    )
    assert first.blocks[0].mlp.fc1.rounding is None
    assert second.blocks[0].mlp.fc1.rounding.any()
