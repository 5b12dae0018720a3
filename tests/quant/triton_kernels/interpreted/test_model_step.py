"""A training step of whole models on Triton's operators: codes, ranges and gradients of plain torch."""

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.models import create_model
from intvit.quant.control import move_ranges
from intvit.quant.kernels import Kernels
from intvit.quant.kernels.accelerator import accelerator
from intvit.quant.kernels.eager import EAGER
from intvit.quant.layer import Layer
from tests.support.presets import quant_of
from tests.support.small_models import PRESETS, random_images
from tests.support.triton_interpreter import DEVICE

SIZES = {
    "deit_t": {"patch_size": 8, "width": 32, "depth": 1, "heads": 2},
    "swin_t": {"patch_size": 4, "width": 16, "depths": (2, 1), "heads": (1, 2), "window": 4},
}


def step(name: str, preset: str, kernels: Kernels) -> tuple[torch.Tensor, ...]:
    """Logits of two training steps, the ranges after them, and the gradients of the second."""
    torch.manual_seed(0)
    form = {"image_size": 32, "num_classes": 10, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    model = create_model(name, **form, **SIZES[name], quant=quant_of(preset, ["quant.observer.momentum=0.5"]))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    calibrate(model, [random_images(4, 0)])
    model.train().to(DEVICE)
    own = Layer.kernels
    Layer.kernels = lambda self, x: kernels
    try:
        logits = []
        for seed in (1, 2):
            model.zero_grad()
            logits.append(model(random_images(3, seed).to(DEVICE)))
            nn.functional.cross_entropy(logits[-1], torch.arange(3, device=DEVICE)).backward()
        move_ranges(model)
    finally:
        Layer.kernels = own
    ranges = torch.cat([value for key, value in model.named_buffers() if key.endswith("statistic")])
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return tuple(value.detach().cpu() for value in (torch.cat(logits), ranges, gradients))


QUICK = {("deit_t", "ivit_paper"), ("deit_t", "lut8_true8"), ("swin_t", "ivit8")}  # the others take minutes
CASES = [
    pytest.param(name, preset, marks=[] if (name, preset) in QUICK else pytest.mark.slow)
    for name in SIZES
    for preset in PRESETS
]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_step_has_the_integers_and_ranges_of_plain_torch(name: str, preset: str) -> None:
    plain, triton = step(name, preset, EAGER), step(name, preset, accelerator())
    assert torch.equal(triton[0], plain[0])
    assert torch.equal(triton[1], plain[1])
    assert torch.allclose(triton[2], plain[2], rtol=1e-4, atol=1e-5 * float(plain[2].abs().max()))
