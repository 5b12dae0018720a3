"""Bad bytes: named under `raise`; under `skip` counted, named and left out, and nothing else changes."""

import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from intvit.data.config import DataError
from intvit.data.loading import calibration_loader, train_loader, validation_loader
from intvit.data.shards import open_split
from intvit.data.transforms import EvalTransform
from intvit.photos import BrokenImage, decode
from tests.support.synthetic_shards import config, number_of, numbered_image, png, write_split, write_tar

MAKERS = [train_loader, validation_loader, calibration_loader]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"no image",
    "truncated png": png(numbered_image(1))[:60],
    "truncated jpeg": jpeg(0)[:400],
    "bomb": bomb(40_000, 40_000),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n",
}


def write_with_faults(root, faults: dict[int, bytes], count: int = 30) -> None:
    """One shard for each split; the images in `faults` are replaced."""
    for split in ("train", "val"):
        files = []
        for number in range(count):
            image = faults.get(number, png(numbered_image(number)))
            files += [(f"sample{number:05d}.png", image), (f"sample{number:05d}.cls", str(number % 5).encode())]
        write_tar(root / f"{split}-000000.tar", files)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_image_is_refused(fault):
    with pytest.raises(BrokenImage) as raised:
        decode(BROKEN[fault], 100_000_000)
    assert "\n" not in str(raised.value)
    assert str(raised.value)


@pytest.mark.parametrize("kind", ["photo", "none"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", MAKERS)
def test_skipping_leaves_out_the_bad_and_nothing_else(tmp_path, caplog, make, workers, kind):
    faults = dict(zip([3, 4, 11, 17, 22, 29], BROKEN.values(), strict=True))
    write_with_faults(tmp_path, {})
    options = {"workers": workers, "train_transform": {"kind": kind}, "batch_size": 10, "eval_batch_size": 10}
    whole = list(make(config(tmp_path, **options)))
    write_with_faults(tmp_path, faults)
    loader = make(config(tmp_path, on_bad_sample="skip", **options))
    assert len(loader) == len(whole) == 3
    with caplog.at_level(logging.WARNING):
        left = list(loader)
    keys = {bad.key for bad in loader.bad}
    assert keys == {f"sample{number:05d}" for number in faults}
    assert loader.skipped == 6
    assert "epoch 0: 6 bad samples skipped on this rank: " in caplog.text
    assert caplog.text.count("-000000.tar, sample 'sample000") == 3
    # What is left is what the whole epoch had, without them, in its order and with its random changes.
    good = [image for images, _ in whole for image in images]
    order = [
        number_of(image)
        for images, _ in make(
            config(tmp_path, **{**options, "train_transform": {"kind": "none"}, "on_bad_sample": "skip"})
        )
        for image in images
    ]
    kept = [image for images, _ in left for image in images]
    assert len(kept) == len(order) == 24
    if kind == "none" or make is not train_loader:
        assert order == [n for n in (number_of(image) for image in good) if n not in faults]
    assert sum(any(torch.equal(image, other) for other in good) for image in kept) == 24


def test_more_than_the_budget_ends_the_epoch_in_words(tmp_path):
    write_with_faults(tmp_path, dict.fromkeys((1, 5, 20), b""))
    options = {"on_bad_sample": "skip", "eval_batch_size": 10}
    assert sum(len(images) for images, _ in validation_loader(config(tmp_path, bad_sample_budget=3, **options))) == 27
    with pytest.raises(
        DataError, match=r"sample00001': broken image .* \(the first of 3 bad samples, more than data.bad"
    ):
        list(validation_loader(config(tmp_path, bad_sample_budget=2, **options)))
    with pytest.raises(DataError, match=r"and every other sample of a batch"):
        list(validation_loader(config(tmp_path, **{**options, "eval_batch_size": 1})))


def test_bad_labels_are_left_out_of_the_index_and_counted(tmp_path, caplog):
    image = png(numbered_image(1))
    write_tar(
        tmp_path / "val-000000.tar",
        [("a.png", image), ("b.png", image), ("b.cls", b"9"), ("c.png", image), ("c.cls", b"x")],
    )
    write_tar(tmp_path / "val-000001.tar", [("d.png", image), ("d.cls", b"1"), ("e.cls", b"1")])
    with caplog.at_level(logging.WARNING):
        loader = validation_loader(config(tmp_path, on_bad_sample="skip"))
    assert "4 bad samples left out of val, such as" in caplog.text
    assert [(len(images), labels.tolist()) for images, labels in loader] == [(1, [1])]
    assert loader.skipped == 4
    with pytest.raises(DataError, match=r"\(the first of 4 bad samples, more than data.bad_sample_budget=3\)"):
        open_split(config(tmp_path, on_bad_sample="skip", bad_sample_budget=3), "val")


@pytest.mark.parametrize("indexed", [False, True])
def test_a_shard_that_was_cut_off_keeps_its_whole_samples(tmp_path, indexed):
    write_split(tmp_path, "val", [9, 4])
    if indexed:
        from intvit.commands import main

        main(["shards", "index", str(tmp_path)])
    path = tmp_path / "val-000000.tar"
    os.truncate(path, 9 * 1024)
    with pytest.raises(DataError, match=r"val-000000.tar: (broken shard|9216 bytes, index.json says)"):
        open_split(config(tmp_path), "val")
    loader = validation_loader(config(tmp_path, on_bad_sample="skip"))
    seen = [number_of(image) for images, _ in loader for image in images]
    assert seen[-4:] == [9, 10, 11, 12]
    assert seen[:-4] == list(range(len(seen) - 4))
    assert 0 < len(seen) - 4 < 9
    if indexed:
        assert loader.skipped == 13 - len(seen)


def test_labels_outside_are_found_in_an_index_too(tmp_path):
    from intvit.commands import main

    write_split(tmp_path, "val", [0, 9, 4])
    main(["shards", "index", str(tmp_path)])
    with pytest.raises(
        DataError, match=r"val-000001.tar, sample 'sample00003': label 3 is outside 0..2; set data.num_cl"
    ):
        open_split(config(tmp_path, num_classes=3), "val")
    index = open_split(config(tmp_path, num_classes=3, on_bad_sample="skip"), "val")
    assert index.labels.tolist() == [n % 5 for n in range(13) if n % 5 < 3]
    assert index.counts.tolist() == [0, 6, 3]
    assert len(index.bad) == 4


def test_sixteen_bits_keep_their_high_byte():
    values = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    image = EvalTransform((8, 8), 1.0, "bicubic", 10_000)(buffer.getvalue())
    assert all(np.array_equal(channel.numpy(), values >> 8) for channel in image)


def test_a_palette_with_transparency_is_its_colours_without_a_warning():
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(colours).convert("P"), io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(buffer.getvalue(), 100), image.convert("RGB"))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
@pytest.mark.parametrize("make", MAKERS)
def test_the_smallest_images_are_images(tmp_path, make, size):
    buffer = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(buffer, "JPEG")
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-000000.tar", [("a.jpg", buffer.getvalue()), ("a.cls", b"0")])
    data = config(tmp_path, image_size=16, batch_size=1, train_transform={"kind": "photo"})
    assert [images.shape for images, _ in make(data)] == [(1, 3, 16, 16)]


def test_a_thread_of_pixels_that_would_grow_to_gigabytes_is_bad():
    buffer = io.BytesIO()
    Image.new("RGB", (60_000, 1)).save(buffer, "PNG")
    with pytest.raises(BrokenImage, match=r"15360000 x 256 pixels once resized, more than max_pixels"):
        EvalTransform((224, 224), 0.875, "bicubic", 100_000_000)(buffer.getvalue())
