"""The evaluation transform equals timm's to the byte; training transforms keep type, shape and reason."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from intvit.data.decoding import decode_crop
from intvit.data.presets import photo_config
from intvit.data.reader import seeded
from intvit.data.shards import open_split
from intvit.data.transforms import EvalTransform, TrainTransform, eval_transform, to_tensor, train_transform
from intvit.photos import decode
from intvit.torchvision_fix import ensure_torchvision
from tests.support.synthetic_shards import config

ensure_torchvision()

from timm.data import create_transform  # noqa: E402

LIMIT = 100_000_000
SIZES = [(224, 224), (500, 375), (375, 500), (333, 500), (1, 1), (1, 300), (640, 17), (257, 256), (90, 91), (1023, 641)]


def timm_output(image: Image.Image, size: tuple[int, int], crop_pct: float, interpolation: str) -> torch.Tensor:
    transform = create_transform((3, *size), crop_pct=crop_pct, interpolation=interpolation, normalize=False)
    return transform(image)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("image_size", "crop_pct"),
    [
        ((224, 224), 0.875),
        ((224, 224), 0.9),
        ((224, 224), 1.0),
        ((8, 8), 1.0),
        ((33, 33), 0.3),
        ((160, 224), 0.875),
        ((224, 160), 0.95),
        ((17, 90), 1.0),
        ((8, 9), 0.1),
    ],
)
def test_evaluation_equals_timm_at_every_aspect_ratio(size, image_size, crop_pct):
    photo = random_image(*size)
    image = EvalTransform(image_size, crop_pct, "bicubic", LIMIT).of_image(photo)
    assert image.dtype == torch.uint8
    assert image.shape == (3, *image_size)
    assert torch.equal(image, timm_output(photo, image_size, crop_pct, "bicubic"))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_evaluation_equals_timm_with_every_interpolation(interpolation):
    photo = random_image(131, 97)
    image = EvalTransform((64, 64), 0.875, interpolation, LIMIT).of_image(photo)
    assert torch.equal(image, timm_output(photo, (64, 64), 0.875, interpolation))


def test_evaluation_equals_timm_on_real_photos(real_data):
    data = replace(photo_config(), root=str(real_data / "imagenet1k-sample"))
    index, transform = open_split(data, "val"), eval_transform(data)
    shapes = set()
    for position in range(0, len(index), 7):
        content = index.read(position)
        shapes.add(decode(content, LIMIT).size)
        expected = timm_output(Image.open(io.BytesIO(content)).convert("RGB"), (224, 224), 0.875, "bicubic")
        assert torch.equal(transform(content), expected), index.bad_sample(position, "differs")
    assert len(shapes) > 10


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "JPEG")],
)
def test_every_mode_becomes_rgb_as_timms_reader_makes_it(mode, kind):
    buffer = io.BytesIO()
    random_image(37, 53).convert(mode).save(buffer, format=kind)
    assert Image.open(buffer).mode == mode
    image = decode(buffer.getvalue(), LIMIT)
    assert image.mode == "RGB"
    assert torch.equal(to_tensor(image), to_tensor(Image.open(buffer).convert("RGB")))
    assert torch.equal(
        EvalTransform((32, 32), 0.875, "bicubic", LIMIT)(buffer.getvalue()),
        timm_output(image, (32, 32), 0.875, "bicubic"),
    )


def test_gray_pixels_come_in_all_three_channels():
    buffer = io.BytesIO()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    image = EvalTransform((8, 8), 1.0, "bicubic", LIMIT)(buffer.getvalue())
    assert all(np.array_equal(channel.numpy(), pixels) for channel in image)


def test_without_random_changes_training_sees_what_evaluation_sees():
    data = config(None, image_size=8, train_transform={"kind": "none"})
    assert train_transform(data) == eval_transform(data)


@pytest.mark.parametrize("auto_augment", ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", None])
def test_photos_are_changed_by_timm_and_stay_uint8(auto_augment):
    options = {"kind": "photo", "auto_augment": auto_augment, "interpolation": "bicubic"}
    data = config(None, image_size=64, train_transform=options)
    transform = train_transform(data)
    for size in [(300, 200), (40, 400), (64, 64)]:
        with seeded("here"):
            image = transform(encoded(random_image(*size)))
        assert image.dtype == torch.uint8
        assert image.shape == (3, 64, 64)


@pytest.mark.parametrize("auto_augment", ["rand-m9-mstd0.5-inc1", None])
def test_photos_for_training_may_be_higher_than_wide(auto_augment):
    options = {"kind": "photo", "auto_augment": auto_augment, "interpolation": "bicubic"}
    transform = train_transform(config(None, image_size=[64, 40], train_transform=options))
    for kind in ("PNG", "JPEG"):
        with seeded("here"):
            assert transform(encoded(random_image(300, 200), kind)).shape == (3, 64, 40)


def test_options_of_the_photo_transform_reach_timm():
    image = random_image(256, 256)
    whole_photo = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}
    plain = {"kind": "photo", "auto_augment": None, "color_jitter": 0.0, **whole_photo}

    def output(key="here", **changes):
        with seeded(key):
            return train_transform(config(None, image_size=256, train_transform={**plain, **changes}))(encoded(image))

    whole = to_tensor(image)
    assert torch.equal(output(horizontal_flip=0.0), whole)
    assert torch.equal(output(horizontal_flip=1.0), whole.flip(2))
    assert not torch.equal(output(horizontal_flip=0.0, color_jitter=0.4), whole)
    assert not torch.equal(output(horizontal_flip=0.0, crop_scale=[0.1, 0.5]), whole)
    augmented = [output(key, horizontal_flip=0.0, auto_augment="rand-m9-n4") for key in "abcd"]
    assert not all(torch.equal(image, whole) for image in augmented)


@pytest.mark.parametrize("increasing", ["", "-inc1"])
@pytest.mark.parametrize("magnitude", range(11))
def test_every_operation_of_timm_works_at_every_magnitude(magnitude, increasing):
    options = {"kind": "photo", "auto_augment": f"rand-m{magnitude}-n60-p1.0{increasing}"}
    transform = train_transform(config(None, image_size=16, train_transform=options))
    with seeded("here"):
        for _ in range(3):
            assert transform(encoded(random_image(20, 30))).dtype == torch.uint8


def smooth_image(width: int, height: int) -> Image.Image:
    """Something like a photo: few high frequencies."""
    small = random_image(max(2, width // 16), max(2, height // 16))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(500, 375), (333, 500), (1600, 1200), (2500, 1000), (60, 4000)])
@pytest.mark.parametrize(
    "options", [{"quality": 95}, {"quality": 75, "subsampling": 0}, {"progressive": True}], ids=str
)
def test_a_jpegs_crop_is_decoded_at_the_smallest_scale_that_keeps_its_size(size, options):
    data = encoded(smooth_image(*size), "JPEG", **options)
    whole = np.asarray(decode(data, LIMIT))
    draw = np.random.default_rng(0)
    seen, compared = set(), 0
    for number in range(16):
        height, width = int(draw.integers(8, size[1] + 1)), int(draw.integers(8, size[0] + 1))
        top, left = int(draw.integers(0, size[1] - height + 1)), int(draw.integers(0, size[0] - width + 1))
        if number % 2:
            top, left, height, width = (side // 8 * 8 for side in (top, left, height, width))
        part = decode_crop(data, LIMIT, lambda _, box=(top, left, height, width): box, (100, 100))
        divisor = next((d for d in (8, 4, 2) if min(height, width) >= 100 * d), 1)
        seen.add(divisor)
        assert abs(part.shape[0] - height / divisor) <= 1
        assert abs(part.shape[1] - width / divisor) <= 1
        assert min(part.shape[:2]) >= min(100, min(height, width)) - 1
        expected = whole[top : top + height, left : left + width]
        if divisor == 1:
            assert np.array_equal(part, expected)  # libjpeg-turbo inside and outside Pillow
        elif all(side % divisor == 0 for side in (top, left, height, width)):  # else off by less than half a pixel
            box = Image.fromarray(expected).resize(part.shape[1::-1], Image.Resampling.BOX)
            assert np.abs(np.asarray(box).astype(int) - part).mean() < 8
            compared += 1
    assert min(size) < 200 or (len(seen) > 1 and compared)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")]
)
def test_crops_of_other_images_are_pillows(mode, kind):
    data = encoded(smooth_image(300, 200).convert(mode), kind)
    part = decode_crop(data, LIMIT, lambda image: (10, 20, image.height - 50, 240), (8, 8))
    assert np.array_equal(part, np.asarray(decode(data, LIMIT))[10:160, 20:260])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_crops_and_flips_are_those_of_timm_up_to_the_rounding_of_the_resize(kind, interpolation):
    """The same draws give the same crop and flip; where torch resizes, some pixels are off by a level or so."""
    options = {"kind": "photo", "auto_augment": None, "color_jitter": 0.0, "interpolation": interpolation}
    data = config(None, image_size=224, train_transform=options)
    ours = TrainTransform(data)
    theirs = create_transform(
        224, is_training=True, color_jitter=0.0, interpolation=interpolation, normalize=False, scale=(0.08, 1.0)
    )
    for size in [(500, 375), (375, 500), (440, 300), (64, 90)]:
        content = encoded(smooth_image(*size), kind)
        for number in range(6):
            with seeded(f"{size}/{number}"):
                image = ours(content)
            with seeded(f"{size}/{number}"):
                expected = theirs(decode(content, LIMIT))
            difference = (image.int() - expected.int()).abs()
            exact = interpolation in ("lanczos", "nearest")
            assert difference.max() <= (0 if exact else 4)
            assert (difference > 0).float().mean() < 0.2
