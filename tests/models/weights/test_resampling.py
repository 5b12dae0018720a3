"""Position embeddings and tables of relative positions for another image size are those that timm makes."""

from typing import Any

import pytest
import torch

from intvit.models import load_weights
from intvit.models.weights.resampling import resample_bias_table, resample_positions
from intvit.torchvision_fix import ensure_torchvision
from tests.support.foreign_weights import parameters, small

ensure_torchvision()
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table  # noqa: E402

GENERATOR = torch.Generator().manual_seed(0)
GRIDS = [((14, 14), (10, 14)), ((14, 14), (24, 24)), ((14, 14), (1, 3)), ((7, 28), (14, 14)), ((2, 2), (2, 2))]


@pytest.mark.parametrize("leading", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_position_embeddings(old: tuple[int, int], new: tuple[int, int], leading: int) -> None:
    given = torch.randn(1, old[0] * old[1] + leading, 8, generator=GENERATOR)
    expected = resample_abs_pos_embed(given, list(new), list(old), leading)
    torch.testing.assert_close(resample_positions(given, old, new), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("old", [(7, 7), (12, 12), (2, 2), (1, 1), (3, 7)])
@pytest.mark.parametrize("new", [(7, 7), (5, 7), (12, 12), (24, 16), (1, 1), (2, 3)])
def test_tables_of_relative_positions(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows = [(2 * height - 1) * (2 * width - 1) for height, width in (old, new)]
    given = 2 * torch.rand(rows[0], 3, generator=GENERATOR) - 1
    expected = resize_rel_pos_bias_table(given, new, (rows[1], 3), old)
    torch.testing.assert_close(resample_bias_table(given, old, new), expected, rtol=0, atol=1e-6)


def test_of_another_image_size_everything_else_stays() -> None:
    cases: list[tuple[str, Any, str]] = [("deit_t", (48, 80), "pos_embed"), ("swin_t", (24, 64), "bias_table")]
    for name, image_size, last in cases:
        given, model = parameters(small(name)), small(name, image_size=image_size)
        load_weights(model, given, resample=True)
        changed = [key for key, value in model.named_parameters() if not torch.equal(value, given.get(key, value))]
        changed = [key for key in given if dict(model.named_parameters())[key].shape != given[key].shape]
        assert changed
        assert all(key.endswith(last) for key in changed)
        equal = [key for key, value in model.named_parameters() if key not in changed]
        assert all(torch.equal(dict(model.named_parameters())[key], given[key]) for key in equal if last not in key)


def test_as_many_tokens_in_another_grid_are_resampled_too() -> None:
    given, model = parameters(small(image_size=64)), small(image_size=(32, 128))  # 4 x 4 and 2 x 8 patches
    load_weights(model, given, resample=True)
    expected = resample_positions(given["pos_embed"], (4, 4), (2, 8))
    assert torch.equal(model.get_parameter("pos_embed"), expected)
