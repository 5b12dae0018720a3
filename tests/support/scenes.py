"""Synthetic photos with masks: blocks of one colour for each class, so that even a tiny model tells them apart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.synthetic_shards import png, write_tar

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
VOID = 255


def scene(number: int, height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """A photo uint8 (h, w, 3) and its mask uint8 (h, w) of classes 0, 1, 2, with a border of one pixel without one."""
    random = np.random.default_rng(number)
    blocks = random.integers(0, len(COLOURS), (2, 3))
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 3 // width
    mask = blocks[rows[:, None], columns].astype(np.uint8)
    noise = random.integers(-20, 21, (height, width, 3))
    photo = np.clip(COLOURS[mask].astype(np.int64) + noise, 0, 255).astype(np.uint8)
    mask[[0, -1]] = mask[:, [0, -1]] = VOID
    return photo, mask


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_scenes(root: Path, *, train: int = 16, val: int = 6, shards: int = 2) -> Path:
    """Shards train-*.tar and val-*.tar of scenes, KEY.png and KEY.seg.png."""
    number = 0
    for split, count in (("train", train), ("val", val)):
        for shard in range(shards):
            files = []
            for _ in range(count // shards):
                photo, mask = scene(number)
                files += [(f"scene{number:04d}.png", png(photo)), (f"scene{number:04d}.seg.png", png(mask))]
                number += 1
            write_tar(root / f"{split}-{shard:06d}.tar", files)
    return root


def overrides(root: Path) -> list[str]:
    """Of train.py: a tiny DeiT on these scenes, patches of 8 pixels, 4 x 6 of them."""
    return [
        "task=segmentation",
        "data=masks",
        f"data.root={root}",
        "data.num_classes=3",
        "data.image_size=[32,48]",
        "data.patch_size=8",
        "data.batch_size=4",
        "data.eval_batch_size=4",
        "data.workers=0",
        "model=deit_t",
        "+model.width=16",
        "+model.depth=2",
        "+model.heads=2",
        "schedule.float.epochs=1",
        "schedule.qat.epochs=1",
        "schedule.frozen=null",
        "schedule.calibrate.images=8",
        "trainer.log_every_steps=1",
        "callbacks.progress=none",
    ]
