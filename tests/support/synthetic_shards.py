"""Synthetic shards and the config that reads them. Image i says in its first pixel that it is sample i."""

import functools
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.data.config import DataConfig

IMAGE_SIZE = 4
PHOTOS = functools.cache(lambda: compose_group(["+data=imagenet"], "data"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def numbered_image(number: int) -> np.ndarray:
    """A (4, 4, 3) image that says in its first pixel which sample it is."""
    pixels = np.random.default_rng(number).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    pixels[0, 0] = number // 256, number % 256, 0
    return pixels


def number_of(image) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[1, 0, 0])


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_split(root: Path, split: str, counts: list[int], classes: int = 5) -> None:
    """Shards with `counts` numbered samples each; the label of sample i is i mod classes."""
    number = 0
    for shard, count in enumerate(counts):
        files = []
        for _ in range(count):
            label = str(number % classes).encode()
            files += [(f"sample{number:05d}.png", png(numbered_image(number))), (f"sample{number:05d}.cls", label)]
            number += 1
        write_tar(root / f"{split}-{shard:06d}.tar", files)


def config(root: Path | None, **changes) -> DataConfig:
    values = {
        **PHOTOS(),
        "name": "synthetic",
        "root": None if root is None else str(root),
        "image_size": IMAGE_SIZE,
        "num_classes": 5,
        "class_names": "indices",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "batch_size": 4,
        "eval_batch_size": 4,
        "workers": 0,
        "crop_pct": 1.0,
        "train_transform": {"kind": "none"},
    }
    transform = changes.get("train_transform")
    if isinstance(transform, dict) and transform.get("kind") == "photo":
        changes["train_transform"] = {**PHOTOS()["train_transform"], **transform}
    return build(DataConfig, {**values, **changes}, "data")
