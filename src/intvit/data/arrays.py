"""A whole data set as arrays in memory: for programs of a few lines."""

from __future__ import annotations

import numpy as np

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.data.config import DataConfig, DataError
from intvit.data.loading import calibration_loader, first_images, validation_loader


def digits(split: str = "val") -> tuple[np.ndarray, np.ndarray]:
    """The embedded digits: images uint8 (N, 3, 8, 8), 0..255, and labels int64 (N,), 0..9.

    split: `train` (1,437 images, in the order of calibration) or `val` (360). They come from scikit-learn, without a
    download, and are written once as shards into $INTVIT_CACHE or ~/.cache/intvit.

    Raises DataError (an IntVitError) for another split, and without scikit-learn (pip install 'intvit[demo]').

    >>> images, labels = digits()
    >>> images.shape, labels[:5].tolist()
    ((360, 3, 8, 8), [6, 4, 9, 1, 5])
    """
    loaders = {"train": calibration_loader, "val": validation_loader}
    if split not in loaders:
        raise DataError(f"digits({split!r}): expected one of {', '.join(loaders)}")
    config = build(DataConfig, compose_group(["+data=digits"], "data"), "data")
    images, labels = first_images(loaders[split](config), None)
    return images.numpy(), labels.numpy()
