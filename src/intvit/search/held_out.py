"""The images of a search: held apart from calibration, every other one under the random transform of training.

Photos of few classes would lead a search to what suits these classes: crops, flips and colours widen them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.data.loading import augmented_loader, calibration_loader, first_images, photo_count
from intvit.errors import IntVitError


def held_out_images(analyzed: AnalyzedModel, folder: str | None, calibration: str | None, count: int) -> Tensor:
    """uint8 (count, C, H, W) of training images, a photo as it is and another one changed in turn.

    folder: with train-*.tar; None is `calibration` or the run's own data. Photos that calibration's images are made of
    are left out, wherever they come from. Raises IntVitError where there are too few.
    """
    root = folder or calibration or analyzed.data.root
    data = replace(analyzed.data, root=root, calibration_photos="center")
    used = photo_count(analyzed.data, len(analyzed.calibration))
    calibrated = calibration_loader(replace(data, root=calibration or analyzed.data.root))
    seen = {_content(image) for image in first_images(calibrated, used)[0]}
    plain, changed = (
        first_images(loader(data, used + count), None)[0] for loader in (calibration_loader, augmented_loader)
    )
    apart = [number for number, image in enumerate(plain) if _content(image) not in seen][:count]
    if len(apart) < count:
        raise IntVitError(
            f"{root or 'the data'} has {len(apart)} images beside those of calibration, {count} are needed; "
            "lower --search-images or --final-images, or name more with --search"
        )
    even = (torch.arange(count) % 2 == 0).view(-1, 1, 1, 1)
    return torch.where(even, plain[apart], changed[apart])


def _content(image: Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes()).digest()
