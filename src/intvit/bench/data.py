"""Images a second of this reader, of plain webdataset and of ImageFolder with DataLoader, on the same JPEGs."""

from __future__ import annotations

import io
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from intvit.data.batches import training_batches
from intvit.data.config import DataConfig, DataError, TrainTransformConfig
from intvit.data.index import ShardRecord, SplitIndex, read_index, read_split, write_index
from intvit.data.loading import train_loader
from intvit.data.transforms import TrainTransform, timm_transform

IMAGENET = 1_281_167, 1_282  # samples and shards of the plan that is timed
CHANGES = {"crop and flip": None, "RandAugment": TrainTransformConfig.auto_augment}


def make_photos(folder: Path, count: int, size: tuple[int, int], quality: int) -> float:
    """Write `count` JPEGs in two class folders, random crops of scikit-learn's two photos; returns their mean bytes."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise DataError("intvit bench data takes its photos from scikit-learn: pip install 'intvit[demo]'") from error
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    draw, total = np.random.default_rng(0), 0
    for number in range(count):
        photo = photos[number % 2]
        width = int(draw.integers(photo.width // 2, photo.width))
        height = min(photo.height, width * size[1] // size[0])
        left = int(draw.integers(0, photo.width - width + 1))
        top = int(draw.integers(0, photo.height - height + 1))
        buffer = io.BytesIO()
        box = (left, top, left + width, top + height)
        photo.resize(size, Image.Resampling.BICUBIC, box=box).save(buffer, "JPEG", quality=quality)
        path = folder / f"class{number % 2}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
        total += buffer.tell()
    return total / count


Variants = dict[str, Callable[[], Iterable[Any]]]


def variants_of(config: DataConfig, photos: Path) -> Variants:
    """Name -> a new iterable over the batches of one epoch."""
    ours, pillow = TrainTransform(config), timm_transform(config)
    return {
        "ImageFolder, Pillow": lambda: _image_folder(config, photos, pillow),
        "webdataset, Pillow": lambda: _webdataset(
            config, lambda data: pillow(Image.open(io.BytesIO(data)).convert("RGB"))
        ),
        "webdataset, our decoder": lambda: _webdataset(config, ours),
        "intvit": lambda: train_loader(config),
    }


def _image_folder(config: DataConfig, photos: Path, transform: Callable[..., Any]) -> Iterable[Any]:
    from torchvision.datasets import ImageFolder

    return DataLoader(
        ImageFolder(str(photos), transform),
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=config.worker_count(),
        drop_last=True,
    )


def _webdataset(config: DataConfig, transform: Callable[..., Any]) -> Iterable[Any]:
    import webdataset

    urls = [str(path) for path in sorted(Path(str(config.root)).glob("train-*.tar"))]
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(5000)
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
        .batched(config.batch_size, partial=False)
    )
    return DataLoader(dataset, batch_size=None, num_workers=config.worker_count())


def compare(variants: Variants, rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """Images a second, and CPU milliseconds an image, of every variant: medians over interleaved passes."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds + 1):  # the first pass warms up
        for name, make in variants.items():
            measured[name].append(_one_pass(make(), batch))
    first = next(iter(variants))
    figures = {}
    for name, passes in measured.items():
        pairs = list(zip(passes[1:], measured[first][1:], strict=True))
        figures[name] = {
            "images_per_second": statistics.median(rate for rate, _ in passes[1:]),
            "ratio": statistics.median(own[0] / other[0] for own, other in pairs),
            "cpu_ms": statistics.median(cpu for _, cpu in passes[1:]),
            "cpu_ratio": statistics.median(other[1] / own[1] for own, other in pairs),
        }
    return figures


def _one_pass(loader: Iterable[Any], batch: int) -> tuple[float, float]:
    """Images a second from the first batch to the last, and CPU milliseconds an image, starting included."""
    began, start, images = _cpu_seconds(), 0.0, 0
    for number, (pixels, _) in enumerate(loader):
        if number == 0:
            start = time.perf_counter()
        images += len(pixels)
    seconds = time.perf_counter() - start
    del loader
    return (images - batch) / seconds, (_cpu_seconds() - began) / images * 1e3


def _cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(times.ru_utime + times.ru_stime for times in usage)


def time_plan() -> tuple[float, float]:
    """(seconds, MB) to read ImageNet's index and plan an epoch of one rank of eight; the index is synthetic."""
    samples, count = IMAGENET
    draw = np.random.default_rng(0)
    counts = np.diff(np.linspace(0, samples, count + 1).astype(int))
    with tempfile.TemporaryDirectory(prefix="intvit-bench-") as folder:
        shards = tuple(
            ShardRecord(f"train-{number:06d}.tar", int(n), int(n) * 120_000, "0" * 64, 700)
            for number, n in enumerate(counts)
        )
        offsets = np.concatenate([np.arange(n) * 112_000 for n in counts])
        table = np.stack([offsets, draw.integers(1, 110_000, samples), draw.integers(0, 1000, samples)])
        write_index(Path(folder), {"train": SplitIndex(shards, table)}, [], None)
        del table, offsets
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        index = read_index((Path(folder) / "index.json").read_bytes(), folder)
        split = read_split(index.splits["train"], (Path(folder) / index.splits["train"].table).read_bytes(), folder)
        training_batches(
            np.array([shard.samples for shard in split.shards]), 128, seed=0, epoch=0, buffer=20_000, world_size=8
        )
        seconds = time.perf_counter() - start
    return seconds, max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e3
