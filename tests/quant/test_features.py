"""Features of distillation: what a student's LayerNorms put out, in reals and in integers, with gradient."""

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.quant import set_mode
from intvit.quant.features import feature_error, norm_outputs
from intvit.quant.layers import LayerNorm
from tests.support.registry_models import model_of, random_images, reduced

NAMES = ("deit_t", "swin_t")


def student_of(name: str, preset: str = "ivit8_true8") -> tuple[nn.Module, torch.Tensor, int]:
    """A calibrated model, images, how many LayerNorms it has."""
    torch.manual_seed(0)
    model, images = model_of(name, preset), random_images(4, reduced(name)[0])
    calibrate(model, [images])
    return model, images, sum(isinstance(module, LayerNorm) for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_every_norm_puts_out_once_and_only_inside_the_block(name: str) -> None:
    model, images, norms = student_of(name)
    for mode in ("float", "integer"):
        set_mode(model, mode)
        with norm_outputs(model) as outputs:
            model(images)
        model(images)
        assert len(outputs) == norms > 0
        assert all(output.dtype == torch.float32 for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_integer_features_lie_near_the_float_ones_and_on_their_grid(name: str) -> None:
    model, images, _ = student_of(name)
    with torch.no_grad(), norm_outputs(model) as integer:
        model(images)
    set_mode(model, "float")
    with torch.no_grad(), norm_outputs(model) as real:
        model(images)
    assert float(feature_error(real, real)) == 0.0
    assert 0.0 < float(feature_error(integer, real)) < 0.05
    scaled = feature_error([3 * part for part in integer], [3 * part for part in real])
    assert float(scaled) == pytest.approx(float(feature_error(integer, real)), rel=1e-4)
    norm = next(module for module in model.modules() if isinstance(module, LayerNorm) and module.output.factors is None)
    index = [module for module in model.modules() if isinstance(module, LayerNorm)].index(norm)
    codes = integer[index].double() / norm.output.scale()
    assert torch.allclose(codes, codes.round(), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_of_features_teaches_what_the_float_model_would_learn_from_it(name: str) -> None:
    model, images, _ = student_of(name, "lut8")
    set_mode(model, "float")
    torch.manual_seed(1)
    with torch.no_grad(), norm_outputs(model) as outputs:
        model(images)
    aims = [output + 0.3 * torch.randn_like(output) for output in outputs]

    def gradient(mode: str) -> torch.Tensor:
        set_mode(model, mode)
        model.zero_grad()
        with norm_outputs(model) as own:
            model(images)
        feature_error(own, aims).backward()
        return torch.cat([p.grad.flatten() for key, p in model.named_parameters() if not key.startswith("head")])

    integer, real = gradient("integer"), gradient("float")
    assert float(torch.cosine_similarity(integer, real, dim=0)) > 0.9
