"""The real DeiT-Tiny, calibrated on a few real photos, for tests that have INTVIT_TEST_DATA."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from intvit.calibration import calibrate
from intvit.data.loading import calibration_loader, validation_loader
from intvit.data.presets import photo_config
from intvit.export.record import record
from intvit.models import load_weights
from intvit.models.presets import photo_model
from intvit.program import Program


def calibrated_deit(preset: str, folder: Path) -> nn.Module:
    """In integer and eval mode, after six photos."""
    data = replace(photo_config(), eval_batch_size=6, workers=0, root=str(folder / "data" / "imagenette224"))
    model = photo_model("deit_t", preset, data).eval()
    load_weights(model, folder / "weights" / "deit_tiny_patch16_224.safetensors")
    calibrate(model, [next(iter(calibration_loader(data)))[0]])
    return model


def real_deit(preset: str, folder: Path) -> Program:
    """Its program."""
    return record(calibrated_deit(preset, folder))


def unseen_photos(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Six photos uint8 (6, 3, 224, 224) of other classes, and their labels."""
    data = replace(photo_config(), eval_batch_size=6, workers=0, root=str(folder / "data" / "imagenet1k-sample"))
    images, labels = next(iter(validation_loader(data)))
    return images.numpy(), labels.numpy()
