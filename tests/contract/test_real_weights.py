"""The contract on the real DeiT-Tiny and real photos."""

from pathlib import Path

import pytest
import torch

from tests.support.real_deit import calibrated_deit, unseen_photos
from tests.support.small_models import differences


@pytest.mark.parametrize(
    "preset",
    [
        "ivit8_true8",
        pytest.param("ibert8", marks=pytest.mark.slow),
        pytest.param("lut8_true8", marks=pytest.mark.slow),
        pytest.param("w4a8", marks=pytest.mark.slow),
    ],
)
def test_real_weights_and_photos_give_equal_integers(preset: str, test_data: Path, tmp_path: Path) -> None:
    model = calibrated_deit(preset, test_data)
    photos, labels = unseen_photos(test_data)
    images = torch.from_numpy(photos)
    assert differences(model, images, tmp_path / "integer") == []
    assert (model.integer_scores(images).argmax(1).numpy() == labels).sum() >= 3
