"""The contract on the real DeiT-Tiny and real photos."""

from dataclasses import replace
from pathlib import Path

import pytest

from intvit.analysis.presets import compose_quant, photo_config
from intvit.data.loading import calibration_loader, validation_loader
from intvit.models import create_model, load_weights
from intvit.quant import calibrate
from tests.contract.test_equality import differences


@pytest.mark.parametrize("preset", ["ivit8_true8", "ibert8", "lut8_true8", "w4a8"])
def test_real_weights_and_photos_give_equal_integers(preset: str, test_data: Path, tmp_path: Path) -> None:
    data = replace(photo_config(), eval_batch_size=6, workers=0)
    model = create_model(
        "deit_t",
        image_size=224,
        patch_size=None,
        num_classes=1000,
        mean=data.mean,
        std=data.std,
        quant=compose_quant(preset),
    ).eval()
    load_weights(model, test_data / "weights" / "deit_tiny_patch16_224.safetensors")
    photos, _ = next(iter(calibration_loader(replace(data, root=str(test_data / "data" / "imagenette224")))))
    calibrate(model, [photos])
    unseen, labels = next(iter(validation_loader(replace(data, root=str(test_data / "data" / "imagenet1k-sample")))))
    assert differences(model, unseen, tmp_path / "integer") == []
    assert (model.integer_scores(unseen).argmax(1) == labels).sum() >= 3
