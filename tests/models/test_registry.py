"""Every registered model, small: float equal to timm, gradients everywhere, exact state, integers equal everywhere."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.models import MODELS, load_weights
from intvit.models.quantize import quantize
from intvit.quant import set_mode
from intvit.torchvision_fix import ensure_torchvision
from tests.support.registry_models import MEAN, STD, model_of, random_images, reduced
from tests.support.small_models import differences

FORMS = ("deit_s", "deit_b_distilled", "swin_b", "vit_b_32")  # every form; the others differ in size
PRESETS = ("ivit8", "lut8", "ivit8_true8", "ibert8_true8", "ppoly8_true8", "lut8_true8")


def timm_model(name: str, **changes: Any) -> nn.Module:
    """timm's model with lively random weights."""
    ensure_torchvision()
    import timm

    image_size, _, small = reduced(name)
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name].timm, **{"num_classes": 7, "img_size": image_size, **small, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def float_difference(model: nn.Module, reference: nn.Module, images: torch.Tensor) -> float:
    real = (images / 255.0 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        return float((model.eval()(images) - reference(real)).abs().max())


def unmoved(model: nn.Module, images: torch.Tensor) -> list[str]:
    """Parameters that one step of quantization-aware training leaves as they are."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    loss = nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 7)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss.backward()
    optimizer.step()
    return [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


@functools.lru_cache(maxsize=1)
def reference_of(name: str) -> nn.Module:
    """timm's model of this name, kept for the tests of one name, which follow each other; they change nothing."""
    return timm_model(name)


def with_weights_of_timm(name: str, preset: str) -> tuple[nn.Module, torch.Tensor]:
    """Our model of this name with timm's weights, and four images."""
    model = model_of(name, preset)
    load_weights(model, reference_of(name).state_dict())
    return model, random_images(4, reduced(name)[0])


def test_the_registry_is_whole() -> None:
    assert len(MODELS) >= 14


@pytest.mark.parametrize("name", MODELS)
def test_floats_equal_timms_state_is_exact_and_every_parameter_trains(name: str) -> None:
    model, images = with_weights_of_timm(name, PRESETS[0])
    assert float_difference(model, reference_of(name), images) <= 1e-4
    calibrate(model, [images])
    copy = model_of(name, PRESETS[0])
    copy.load_state_dict(model.state_dict())
    set_mode(copy.eval(), "integer")
    assert torch.equal(copy.integer_scores(images), model.integer_scores(images))
    assert unmoved(model, images) == []


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        pytest.param(name, preset, marks=() if name in FORMS or preset == PRESETS[0] else pytest.mark.slow)
        for name in MODELS
        for preset in PRESETS
    ],
)
def test_model_and_runtimes_give_equal_integers(name: str, preset: str, tmp_path) -> None:
    model, images = with_weights_of_timm(name, preset)
    calibrate(model, [images])
    assert differences(model, images[:2], tmp_path / "integer") == []


@pytest.mark.parametrize("size", [8, 24, 36, 60, 64, 100])
def test_swin_of_any_size_that_the_patch_divides(size: int, tmp_path) -> None:
    """Windows larger than the image, sides that are no multiple of the window, odd sides at the merging."""
    reference = timm_model("swin_t", img_size=size)
    model, images = model_of("swin_t", "lut8_true8", image_size=size), random_images(3, size)
    load_weights(model, reference.state_dict())
    assert float_difference(model, reference, images) <= 1e-4
    calibrate(model, [images])
    assert differences(model, images, tmp_path / "integer") == []


@pytest.mark.parametrize("size", [(20, 52), (60, 24), (4, 100), (28, 56), (36, 8)], ids=str)
def test_swin_of_images_that_are_not_square(size: tuple[int, int], tmp_path) -> None:
    """Windows cut and shifted on one axis alone, an odd number of rows or of columns at the merging."""
    reference = timm_model("swin_t", img_size=size)
    model, images = model_of("swin_t", "lut8_true8", image_size=size), random_images(3, *size)
    load_weights(model, reference.state_dict())
    assert float_difference(model, reference, images) <= 1e-4
    calibrate(model, [images])
    assert differences(model, images, tmp_path / "integer") == []


@pytest.mark.parametrize("preset", ["ivit8", "lut8_true8"])
@pytest.mark.parametrize("name", ["deit_t", "deit_t_distilled"])
def test_vit_of_images_that_are_not_square(name: str, preset: str, tmp_path) -> None:
    reference = timm_model(name, img_size=(32, 80))
    model, images = model_of(name, preset, image_size=(32, 80)), random_images(3, 32, 80)
    load_weights(model, reference.state_dict())
    assert float_difference(model, reference, images) <= 1e-4
    calibrate(model, [images])
    assert differences(model, images, tmp_path / "integer") == []


@pytest.mark.parametrize(("name", "size"), [("deit_t", (48, 16)), ("swin_t", (20, 52)), ("swin_t", (100, 12))])
def test_timms_models_of_images_that_are_not_square_are_taken_over(name: str, size: tuple[int, int]) -> None:
    reference = timm_model(name, img_size=size)
    model = quantize(reference, "lut8", mean=MEAN, std=STD)
    assert model.image_size == size
    assert float_difference(model, reference, random_images(2, *size)) <= 1e-4


def test_reading_the_scale_of_the_scores_moves_no_range() -> None:
    model = model_of("swin_t", "lut8")
    calibrate(model, [random_images(2, 56)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.train().score_scale > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masked_tokens_do_not_reach_each_other() -> None:
    model = model_of("swin_t", "lut8")
    excluded = model.layers[0].blocks[1].attn.core.excluded
    assert excluded.any()
    assert not excluded.diagonal(dim1=-2, dim2=-1).any()
    assert model.layers[0].blocks[0].attn.core.excluded is None
