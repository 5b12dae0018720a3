"""The dense end: float and integer scores agree, gradients are those of the float end, factors are powers of two."""

import pytest
import torch
from torch.nn import functional as F

from intvit.calibration import calibrate
from intvit.errors import IntVitError
from intvit.quant import set_mode
from intvit.quant.layers.dense import Upsample, UpsampleGradient
from tests.support.dense_models import dense_model, images_of


@pytest.mark.parametrize(("grid", "factor"), [((1, 1), 2), ((3, 2), 4), ((2, 5), 16)])
def test_the_gradient_is_that_of_interpolation(grid: tuple[int, int], factor: int) -> None:
    generator = torch.Generator().manual_seed(factor)
    x = torch.randn(2, 3, *grid, generator=generator, requires_grad=True)
    gradient = torch.randn(2, 3, grid[0] * factor, grid[1] * factor, generator=generator)
    F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False).backward(gradient)
    expected, x.grad = x.grad, None
    UpsampleGradient.apply(x, factor).backward(gradient)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("head", "near"), [("linear", 0.99), ("multi", 0.99), ("mask", 0.95)])  # of random weights
def test_integer_logits_and_gradients_are_near_the_float_ones(head: str, near: float) -> None:
    model = dense_model("lut8", head)
    images = images_of(model, 4, 1)
    calibrate(model, [images_of(model, 8, 2)])
    logits, gradients = {}, {}
    for mode in ("float", "integer"):
        set_mode(model, mode)
        model.zero_grad()
        logits[mode] = model(images)
        logits[mode].square().mean().backward()
        gradients[mode] = {name: parameter.grad.flatten().clone() for name, parameter in model.named_parameters()}
    assert logits["integer"].shape == (4, 5, 24, 32)
    assert torch.equal(logits["integer"], (model.integer_scores(images).double() * model.score_scale).float())
    assert F.cosine_similarity(*(each.flatten() for each in logits.values()), 0) > near
    for name, gradient in gradients["float"].items():
        assert F.cosine_similarity(gradient, gradients["integer"][name], 0) > 0.9, name


@pytest.mark.parametrize("factor", [1, 14, 512])
def test_a_patch_that_is_no_power_of_two_is_refused(factor: int) -> None:
    with pytest.raises(IntVitError, match=f"a patch is {factor} pixels wide; .*choose such a patch size"):
        Upsample((2, 2), factor)
