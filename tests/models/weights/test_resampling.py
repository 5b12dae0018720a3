"""Position embeddings and tables of relative positions for another image size are those that timm makes."""

from pathlib import Path
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


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about what timm does
@pytest.mark.parametrize("old", [(7, 7), (12, 12), (2, 2), (1, 1), (3, 7)])
@pytest.mark.parametrize("new", [(7, 7), (5, 7), (12, 12), (24, 16), (1, 1), (2, 3)])
def test_tables_of_relative_positions(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows = [(2 * height - 1) * (2 * width - 1) for height, width in (old, new)]
    given = 2 * torch.rand(rows[0], 3, generator=GENERATOR) - 1
    expected = resize_rel_pos_bias_table(given, new, (rows[1], 3), old)
    torch.testing.assert_close(resample_bias_table(given, old, new), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "image_size", "last"),
    [("deit_t", (48, 80), "pos_embed"), ("swin_t", (24, 64), "relative_position_bias_table")],
)
def test_for_another_image_size_they_alone_change(name: str, image_size: tuple[int, int], last: str) -> None:
    given, model = parameters(small(name)), small(name, image_size=image_size)
    load_weights(model, given, resample=True)
    loaded = dict(model.named_parameters())
    changed = {key for key in given if loaded[key].shape != given[key].shape}
    assert changed
    assert {key.rpartition(".")[2] for key in changed} == {last}
    assert all(torch.equal(loaded[key], given[key]) for key in given if not key.endswith(last))


@pytest.mark.parametrize(
    "form", [{"registers": 3}, {"registers": 3, "prefix_positions": False}, {"class_token": False, "pool": "avg"}]
)
def test_tokens_before_the_patches_keep_their_positions(form: dict[str, Any]) -> None:
    given, model = parameters(small(**form)), small(image_size=(48, 64), **form)
    load_weights(model, given, resample=True)
    leading = given["pos_embed"].shape[1] - 4
    positions = model.get_parameter("pos_embed")
    assert positions.shape == (1, leading + 12, 16)
    assert torch.equal(positions[:, :leading], given["pos_embed"][:, :leading])


def test_as_many_tokens_in_another_grid_are_resampled_or_the_doubt_is_said(tmp_path: Path) -> None:
    given, model = parameters(small(image_size=64)), small(image_size=(32, 128))  # 4 x 4 and 2 x 8 patches
    torch.save(given, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert torch.equal(model.get_parameter("pos_embed"), given["pos_embed"])
    (note,) = model.provenance["weights"]["notes"]
    assert note == "pos_embed is taken for [32,128] pixels; if it is of square images: model.resample=true"
    load_weights(model, tmp_path / "w.pth", resample=True)
    expected = resample_positions(given["pos_embed"], (4, 4), (2, 8))
    assert torch.equal(model.get_parameter("pos_embed"), expected)
