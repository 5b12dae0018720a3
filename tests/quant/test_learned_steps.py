"""Learned step sizes of weights: their gradient, what they recover, and that integers follow them everywhere."""

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.models.weights import load_weights
from intvit.quant import set_mode
from intvit.quant.layers import Linear
from intvit.quant.layers.linear import SMALLEST_CLIP, clip_gradient, integer_linear
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import QTensor, handle
from tests.support.presets import quant_of
from tests.support.small_models import differences, extreme_images, random_images, small_model

LEARNED = ["quant/observer=learned"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("clip", [0.3, 0.7, 0.99, 1.4])  # at 1 the largest weight lies on the edge
def test_the_gradient_of_a_clip_is_that_of_a_float_fake_quantizer_with_frozen_rounding(bits: int, clip: float) -> None:
    """A fake quantizer s * clamp(w / s + r), whose rounding r does not move, has the derivative that LSQ takes."""
    torch.manual_seed(bits)
    weight, gradient = torch.randn(5, 64), torch.randn(5, 64)
    weight[3] *= 1e-3
    largest, clips = 2 ** (bits - 1) - 1, torch.full((5,), clip)
    one = torch.ones((), dtype=torch.float64)
    integers = integer_linear(weight, None, torch.zeros(5), clips, None, None, one, bits=bits, clipped=True)
    real = weight.double() / integers.weight_scale.double()[:, None]
    rounding = (real.round() - real).where(real.abs() < largest, torch.tensor(0.0, dtype=torch.float64))

    def loss(moved: torch.Tensor) -> torch.Tensor:
        scale = weight.double().abs().amax(1, keepdim=True) * moved[:, None] / largest
        values = scale * ((weight.double() / scale).clamp(-largest, largest) + rounding)
        return (values * gradient).sum(1)

    small = 1e-7
    expected = (loss(clips.double() + small) - loss(clips.double() - small)) / (2 * small)
    found = clip_gradient(gradient, weight, integers.weight, integers.weight_scale, bits)
    scaled = expected / (64 * largest) ** 0.5
    assert torch.allclose(found.double(), scaled, rtol=1e-3, atol=1e-4 * float(scaled.abs().max()))


@pytest.mark.parametrize("start", [0.15, 3.0])
def test_learning_recovers_from_a_bad_start(start: float) -> None:
    torch.manual_seed(0)
    site = quant_of("w4a8", LEARNED).site("layer")
    layer = Linear(32, 8, site)
    quantizer = Quantizer(8, "minmax", site.observer)
    x = torch.randn(256, 32)
    quantizer.collect(x)
    quantizer.finish()
    codes = (x / quantizer.scale()).round().clamp(-127, 127)
    with torch.no_grad():
        target = layer(codes.float() * quantizer.scale().float())
        layer.clip.fill_(start)
    inputs = QTensor(codes.to(torch.int8), handle(256, 32), quantizer.scale(), 8)
    optimizer, errors = torch.optim.Adam([layer.clip], 0.03), []
    for _ in range(120):
        error = (layer(inputs).differentiable() - target).square().mean() / target.square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    with torch.no_grad():
        layer.finish()
        searched = (layer(inputs).differentiable() - target).square().mean() / target.square().mean()
    assert errors[-1] < errors[0] / 10
    assert errors[-1] < 1.2 * float(searched)  # as good as the search for the smallest error


def test_without_it_there_is_no_parameter_more_and_with_it_the_start_is_that_of_the_search() -> None:
    usual, learned, images = small_model("w4a8"), small_model("w4a8", LEARNED), random_images(8, 0)
    names = {name for name, _ in usual.named_parameters()}
    more = {name for name, _ in learned.named_parameters()} - names
    assert more == {f"{layer.name}.clip" for layer in learned.modules() if isinstance(layer, Linear)}
    assert {name for name, _ in learned.named_weights()} == names
    load_weights(learned, dict(usual.named_parameters()))  # a float model has no steps
    for model in (usual, learned):
        calibrate(model, [images])
    assert torch.equal(learned.integer_scores(images), usual.integer_scores(images))


def test_steps_learn_and_the_program_follows(tmp_path) -> None:
    model, images = small_model("w4a8", LEARNED), random_images(8, 0)
    calibrate(model, [images])
    before = {name: step.detach().clone() for name, step in model.named_parameters() if name.endswith(".clip")}
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for seed in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(random_images(8, seed)), torch.arange(8)).backward()
        optimizer.step()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.clip[:2] = torch.tensor([-1.0, 0.0])  # held at the smallest
    model.eval()
    moved = [name for name, step in before.items() if not torch.equal(step, model.get_parameter(name))]
    assert moved == list(before)
    copy = small_model("w4a8", LEARNED, seed=1)
    copy.load_state_dict(model.state_dict())
    set_mode(copy.eval(), "integer")
    for some in (images, extreme_images(4)):
        assert torch.equal(copy.integer_scores(some), model.integer_scores(some))
    assert differences(model, images, tmp_path / "integer") == []


def test_a_clip_below_the_smallest_counts_as_the_smallest() -> None:
    weight, one = torch.randn(3, 8), torch.ones((), dtype=torch.float64)
    least = torch.full((3,), SMALLEST_CLIP)
    for clip in (least * 0.5, -least, torch.zeros(3)):
        of = [
            integer_linear(weight, None, torch.zeros(3), each, None, None, one, bits=4, clipped=True)
            for each in (clip, least)
        ]
        assert torch.equal(of[0].weight, of[1].weight)
        assert torch.equal(of[0].scale, of[1].scale)
