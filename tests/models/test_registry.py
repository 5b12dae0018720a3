"""Every registered model, small: float equal to timm, gradients everywhere, exact state, integers equal everywhere."""

import time
from typing import Any

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.models import MODELS, load_weights
from intvit.quant import set_mode
from intvit.torchvision_fix import ensure_torchvision
from tests.support.registry_models import MEAN, STD, model_of, random_images, reduced
from tests.support.small_models import differences

PRESETS = ("ivit8", "lut8", "ivit8_true8", "ibert8_true8", "ppoly8_true8", "lut8_true8")
COLUMNS = ("float", "gradients", "state", *PRESETS)


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


def check_all(name: str, folder) -> dict[str, str]:
    """Result by column."""
    reference, images = timm_model(name), random_images(4, reduced(name)[0])
    result = {}
    for preset in PRESETS:
        model = model_of(name, preset)
        load_weights(model, reference.state_dict())
        if preset == PRESETS[0]:
            error = float_difference(model, reference, images)
            result["float"] = "equal" if error <= 1e-4 else f"differs by {error:.1e}"
        calibrate(model, [images])
        wrong = differences(model, images[:2], folder / preset)
        result[preset] = "equal" if not wrong else wrong[0]
        if preset == PRESETS[0]:
            copy = model_of(name, preset)
            copy.load_state_dict(model.state_dict())
            set_mode(copy.eval(), "integer")
            same = torch.equal(copy.integer_scores(images), model.integer_scores(images))
            result["state"] = "equal" if same else "scores differ after loading"
            dead = unmoved(model, images)
            result["gradients"] = "all" if not dead else f"none: {', '.join(dead)}"
    return result


def test_every_registered_model(tmp_path, capsys) -> None:
    matrix, seconds = {}, {}
    for name in MODELS:
        start = time.perf_counter()
        matrix[name] = check_all(name, tmp_path / name)
        seconds[name] = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n{'':<18}" + "".join(f"{column:<14}" for column in COLUMNS) + "seconds")
        for name in MODELS:
            cells = "".join(f"{matrix[name].get(column, 'ABSENT'):<14}" for column in COLUMNS)
            print(f"{name:<18}{cells}{seconds[name]:>7.1f}")
    assert len(matrix) >= 14
    for name, result in matrix.items():
        assert set(result) == set(COLUMNS), name
        assert {column: text for column, text in result.items() if text not in ("equal", "all")} == {}, name


@pytest.mark.parametrize("size", [8, 24, 36, 60, 64, 100])
def test_swin_of_any_size_that_the_patch_divides(size: int, tmp_path) -> None:
    """Windows larger than the image, sides that are no multiple of the window, odd sides at the merging."""
    reference = timm_model("swin_t", img_size=size)
    model, images = model_of("swin_t", "lut8_true8", image_size=size), random_images(3, size)
    load_weights(model, reference.state_dict())
    assert float_difference(model, reference, images) <= 1e-4
    calibrate(model, [images])
    assert differences(model, images, tmp_path / "integer") == []


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
