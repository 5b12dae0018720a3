"""The contract: trained model in eval mode and every runtime give equal integers, for every preset."""

import numpy as np
import pytest
import torch
from torch import nn

from intvit.quant.quantizer import Quantizer
from tests.support.small_models import PRESETS, SIZE, differences, extreme_images, prepared, random_images, small_model


def photo_crops(count: int) -> torch.Tensor:
    """Crops of the two real photos that scikit-learn carries."""
    datasets = pytest.importorskip("sklearn.datasets", reason="real photos come with scikit-learn")
    photos = datasets.load_sample_images().images
    generator = np.random.default_rng(0)
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        y, x = generator.integers(0, photo.shape[0] - SIZE), generator.integers(0, photo.shape[1] - SIZE)
        crops.append(photo[y : y + SIZE, x : x + SIZE].transpose(2, 0, 1))
    return torch.from_numpy(np.stack(crops))


def gamma_zero(model: nn.Module) -> None:
    """LayerNorm weights of zero, some and all channels."""
    model.blocks[0].norm1.weight.data[::3] = 0.0
    model.blocks[1].norm2.weight.data.zero_()


def zero_channel(model: nn.Module) -> None:
    """Output channels of zeros, with and without a bias."""
    for linear in (model.blocks[0].attn.qkv, model.blocks[0].mlp.fc1, model.blocks[1].mlp.fc2, model.head):
        linear.weight.data[1:3] = 0.0
        linear.bias.data[2] = 0.0
    model.blocks[1].attn.proj.weight.data.zero_()


def constant_row(model: nn.Module) -> None:
    """A class token whose channels are all equal: variance zero in the first LayerNorm."""
    model.cls_token.data.fill_(0.7)
    model.pos_embed.data[:, 0] = 0.0


def negative_rows(model: nn.Module) -> None:
    """GELU inputs without a positive value."""
    for block in model.blocks:
        block.mlp.fc1.weight.data.mul_(0.1)
        block.mlp.fc1.bias.data.fill_(-2.0)


def unchanged(model: nn.Module) -> None:
    """Weights as they are."""


def narrow_ranges(model: nn.Module) -> None:
    """Ranges so small that most values saturate, set after calibration."""
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.statistic.mul_(0.15)


CASES = {
    "random": (unchanged, None, lambda: random_images(6, 1)),
    "photos": (unchanged, None, lambda: photo_crops(6)),
    "gamma 0": (gamma_zero, None, lambda: random_images(4, 2)),
    "zero channel": (zero_channel, None, lambda: random_images(4, 3)),
    "constant row": (constant_row, None, lambda: random_images(4, 4)),
    "negative rows": (negative_rows, None, lambda: random_images(4, 5)),
    "saturated": (unchanged, narrow_ranges, lambda: torch.cat((random_images(3, 6), extreme_images(5)))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", PRESETS)
def test_model_and_runtimes_give_equal_integers_for_every_preset_and_case(preset, case, tmp_path) -> None:
    change, after, images = CASES[case]
    model = small_model(preset)
    change(model)
    assert differences(prepared(model, after), images(), tmp_path / "integer") == []


def test_every_preset_takes_part() -> None:
    assert len(PRESETS) >= 11


MIXES = [
    ["quant/gelu=ibert", "quant/layernorm=exact", "quant/bits=true8"],
    ["quant/softmax=ppoly", "quant/gelu=ivit", "quant/bits=r16s16"],
    ["quant/softmax=ibert", "quant/layernorm=ibert", "quant/bits=w6a6"],
    ["quant.bits.weight=2", "quant.bits.activation=2", "quant.bits.logits=4", "quant.bits.probabilities=4"],
    ["quant.bits.activation=5", "quant.bits.residual=12", "quant.softmax.normalization=floor"],
    ["quant.observer.activation=percentile", "quant.bits.residual=4", "quant.bits.residual_factors=true"],
    ["+quant.overrides={blocks.0.*:{bits:{weight:4,activation:6},gelu:{family:lut}},*.core:{softmax:{family:ibert}}}"],
]


@pytest.mark.parametrize("overrides", MIXES, ids=lambda overrides: " ".join(overrides)[:60])
def test_mixed_families_widths_and_overrides_give_equal_integers(overrides, tmp_path) -> None:
    model = prepared(small_model("ivit8", overrides, seed=3))
    images = torch.cat((random_images(4, 7), photo_crops(3), extreme_images(4)))
    assert differences(model, images, tmp_path / "integer") == []
