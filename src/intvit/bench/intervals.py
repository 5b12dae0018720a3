"""Figures of presets with bootstrap intervals: means of what every image gave, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 95.0  # percent
# What a preset is measured by, the steadiest first: name -> factor on the mean over the images. Divergence is in bits,
# the others are percentages of images.
FIGURES = {"divergence": 1.0, "agreement": 100.0, "top1": 100.0}


def intervals(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap (Efron 1979) of means: float64 (K, N) of N images -> (K, 2), low and high end.

    All K figures see the same resampled images. The same values and seed give the same interval everywhere.
    """
    count = values.shape[1]
    random = np.random.RandomState(seed)  # its stream is frozen, unlike that of numpy's newer generators
    means = np.stack([values[:, random.randint(0, count, count)].mean(1) for _ in range(RESAMPLES)])
    outside = (100.0 - CONFIDENCE) / 2
    return np.percentile(means, [outside, 100.0 - outside], axis=0).T


def figures(images: Mapping[str, np.ndarray], seen: np.ndarray) -> dict[str, Any]:
    """Means with intervals over all images, and over those of classes that calibration saw and did not see.

    images: for every name of FIGURES what each of the N images gave. seen: bool (N,), whether calibration held photos
    of the image's class. `classes` is empty where the images are of one kind only; `images` is for paired tests.
    """
    both = {"seen": seen, "unseen": ~seen} if 0 < seen.sum() < len(seen) else {}
    classes = {kind: _summary({key: images[key][part] for key in FIGURES}) for kind, part in both.items()}
    return {**_summary(images), "classes": classes, "images": {key: images[key].tolist() for key in FIGURES}}


def _summary(images: Mapping[str, np.ndarray]) -> dict[str, Any]:
    values = np.stack([factor * images[key].astype(np.float64) for key, factor in FIGURES.items()])
    ends = dict(zip(FIGURES, intervals(values).tolist(), strict=True))
    means = dict(zip(FIGURES, values.mean(1).tolist(), strict=True))
    return {"count": values.shape[1], **means, "intervals": ends}
