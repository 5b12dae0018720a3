"""The real DeiT-Tiny, calibrated on a few real photos, for tests that have INTVIT_TEST_DATA."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from intvit.calibration import calibrate
from intvit.data.config import DataConfig
from intvit.data.loading import calibration_loader, validation_loader
from intvit.data.presets import photo_config
from intvit.export.record import record
from intvit.models import load_weights
from intvit.models.presets import photo_model
from intvit.program import Program


def calibrated_deit(preset: str, folder: Path) -> nn.Module:
    """In integer and eval mode, after six photos."""
    data, photos = _calibration(folder)
    model = photo_model("deit_t", preset, data).eval()
    load_weights(model, folder / "weights" / "deit_tiny_patch16_224.safetensors")
    calibrate(model, [photos])
    return model


@functools.cache  # without an index, all shards are read for six photos
def _calibration(folder: Path) -> tuple[DataConfig, Tensor]:
    data = replace(photo_config(), eval_batch_size=6, workers=0, root=str(folder / "data" / "imagenette224"))
    return data, next(iter(calibration_loader(data)))[0]


def real_deit(preset: str, folder: Path) -> Program:
    """Its program."""
    return record(calibrated_deit(preset, folder))


@functools.cache
def unseen_photos(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Six photos uint8 (6, 3, 224, 224) of other classes, and their labels."""
    data = replace(photo_config(), eval_batch_size=6, workers=0, root=str(folder / "data" / "imagenet1k-sample"))
    images, labels = next(iter(validation_loader(data)))
    return images.numpy(), labels.numpy()
