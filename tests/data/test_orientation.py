"""A camera's orientation mark follows one key, data.orientation, wherever a photo becomes pixels."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from intvit.config.presets import compose_group
from intvit.data.decoding import decode_crop
from intvit.data.loading import calibration_loader, train_loader, validation_loader
from intvit.data.reader import seeded
from intvit.data.transforms import eval_transform, train_transform
from intvit.photos import decode
from intvit.program import save_checkpoint
from intvit.runtime.images import read_images
from tests.support.photo_trees import tree_config
from tests.support.random_programs import random_program
from tests.support.synthetic_shards import config

LIMIT = 10**6
MARKS = range(1, 9)


def marked(mark: int | bytes, kind: str = "JPEG", size: tuple[int, int] = (300, 200)) -> bytes:
    """A photo of no symmetry with an orientation mark."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (max(2, size[1] // 20), max(2, size[0] // 20), 3), dtype=np.uint8
    )
    image, buffer, exif = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), io.BytesIO(), Image.Exif()
    if isinstance(mark, int):
        exif[0x0112] = mark
    image.save(buffer, kind, exif=exif if isinstance(mark, int) else mark)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mark", MARKS)
def test_applied_it_is_pillows_turn_and_ignored_the_stored_pixels(mark, kind):
    data = marked(mark, kind)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(np.asarray(decode(data, LIMIT, upright=True)), upright)
    if kind != "TIFF":  # which Pillow turns as it loads it
        assert np.array_equal(np.asarray(decode(data, LIMIT)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(("kind", "size"), [("JPEG", (300, 200)), ("JPEG", (901, 600)), ("PNG", (200, 300))])
@pytest.mark.parametrize("mark", MARKS)
def test_a_random_crop_of_a_turned_photo_is_that_of_the_upright_one(mark, kind, size):
    data = marked(mark, kind, size)
    whole = np.asarray(decode(data, LIMIT * 10, upright=True))
    for box in ((0, 0, 100, 120), (16, 8, 168, 160), (0, 0, *whole.shape[:2])):
        part = decode_crop(data, LIMIT * 10, lambda image, box=box: box, (200, 200), upright=True)
        divisor = max(1, round(box[2] / part.shape[0]))
        top, left, height, width = box
        expected = whole[top : top + height, left : left + width]
        if divisor == 1:
            assert np.array_equal(part, expected)
        else:
            box_filtered = Image.fromarray(expected).resize(part.shape[1::-1], Image.Resampling.BOX)
            assert np.abs(np.asarray(box_filtered).astype(int) - part).mean() < 8
    seen = []
    decode_crop(data, LIMIT * 10, lambda image: seen.append(image.size) or (0, 0, 50, 50), (8, 8), upright=True)
    assert seen == [whole.shape[1::-1]]


@pytest.mark.parametrize("mark", [0, 9, b"Exif\0\0broken", b"no exif"])
def test_a_mark_that_says_nothing_turns_nothing(mark):
    data = marked(mark)
    assert np.array_equal(np.asarray(decode(data, LIMIT, upright=True)), np.asarray(decode(data, LIMIT)))


@pytest.mark.parametrize("orientation", ["apply", "ignore"])
def test_training_evaluation_calibration_and_run_see_the_same_pixels(tmp_path, caplog, orientation):
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "photo.jpg").write_bytes(marked(6, size=(12, 20)))
    data = tree_config(tmp_path, image_size=8, batch_size=1, orientation=orientation)
    expected = eval_transform(data)(marked(6, size=(12, 20))).numpy()
    stored = eval_transform(replace(data, orientation="ignore"))(marked(6, size=(12, 20))).numpy()
    assert np.array_equal(expected, stored) == (orientation == "ignore")
    for make in (train_loader, validation_loader, calibration_loader):
        ((images, _),) = make(data)
        assert np.array_equal(images[0].numpy(), expected)
    program = next(p for p in map(random_program, range(200)) if p.values["image"].shape == (3, 8, 8))
    values = {"crop_pct": data.crop_pct, "interpolation": data.interpolation, "orientation": orientation}
    program.provenance = {"config": {"data": values}}
    save_checkpoint(program, tmp_path / "integer")
    assert np.array_equal(read_images(program, [tmp_path / "val" / "a" / "photo.jpg"])[0], expected)
    assert ("its orientation mark is ignored" in caplog.text) == (orientation == "ignore")


def test_a_random_change_draws_alike_for_a_turned_photo_and_its_upright_copy():
    options = {"kind": "photo", "auto_augment": None, "color_jitter": 0.0, "interpolation": "bicubic"}
    data = config(None, image_size=32, train_transform=options, orientation="apply")
    turned, buffer = marked(8, "PNG"), io.BytesIO()
    decode(turned, LIMIT, upright=True).save(buffer, "PNG")
    images = []
    for content in (turned, buffer.getvalue()):
        with seeded("here"):
            images.append(train_transform(data)(content))
    assert np.array_equal(*(image.numpy() for image in images))


def test_photos_of_ones_own_stand_upright_and_imagenet_is_read_as_published():
    presets = {name: compose_group([f"+data={name}"], "data")["orientation"] for name in ("folder", "imagenet", "hf")}
    assert presets == {"folder": "apply", "imagenet": "ignore", "hf": "ignore"}
