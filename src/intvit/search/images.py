"""The images of a search: held apart from calibration, every other one under the random transform of training.

Photos of few classes would lead a search to what suits these classes: crops, flips and colours widen them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from intvit.analysis.presets import first_images
from intvit.analysis.subject import Subject
from intvit.data.loading import augmented_loader, calibration_loader
from intvit.errors import IntVitError


def search_images(subject: Subject, folder: str | None, calibration: str | None, count: int) -> Tensor:
    """uint8 (count, C, H, W) of training images, a photo as it is and another one changed in turn.

    folder: with train-*.tar; None takes those behind the calibration images in `calibration` or the run's own data.
    Raises IntVitError where there are too few.
    """
    root = folder or calibration or subject.data.root
    skipped = 0 if folder else len(subject.calibration)
    data = replace(subject.data, root=root)
    parts = [
        first_images(loader(data, skipped + count), None)[0][skipped:]
        for loader in (calibration_loader, augmented_loader)
    ]
    if len(parts[0]) < count:
        raise IntVitError(
            f"{root or 'the data'} has {len(parts[0])} images beside {skipped} of calibration, {count} are needed; "
            "lower --search-images or --final-images, or name more with --search"
        )
    plain = (torch.arange(count) % 2 == 0).view(-1, 1, 1, 1)
    return torch.where(plain, parts[0], parts[1])
