"""Photos with masks: one geometry for both, every pixel counted once, bad ones named or skipped, exact resume."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intvit.config.values import build
from intvit.data import masks
from intvit.data.config import DataConfig, DataError
from intvit.data.loading import calibration_loader, first_images, train_loader, validation_loader
from intvit.data.masks import VOID, decode_mask
from intvit.photos import BrokenImage
from intvit.scenes import enlarged, joined, nearest, windows
from tests.support import scenes
from tests.support.synthetic_shards import png, write_tar
from tests.support.tiny_runs import composed

SCENE = {"kind": "scene", "scale": [0.5, 2.0], "horizontal_flip": 0.5, "color_jitter": 0.0}


def config(root: Path, **changes: object) -> DataConfig:
    values = composed(*scenes.overrides(root))["data"]
    transform = {**values["train_transform"], **SCENE}
    return build(DataConfig, {**values, "train_transform": transform, **changes}, "data")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write_scenes(tmp_path_factory.mktemp("scenes"))


def test_photo_and_mask_go_through_one_random_geometry(root: Path) -> None:
    """Where a pixel has a label, it has the label's colour: scaled, cropped, flipped, placed inside alike."""
    loader = train_loader(config(root))
    seen, flipped = 0, set()
    for epoch in range(3):
        loader.set_epoch(epoch)
        for images, targets in loader:
            assert images.shape == (4, 3, 32, 48)
            assert (images.dtype, targets.dtype, targets.shape) == (torch.uint8, torch.int16, (4, 32, 48))
            nearest_colour = (
                images.permute(0, 2, 3, 1)[..., None, :].int() - torch.from_numpy(scenes.COLOURS)
            ).square()
            given = nearest_colour.sum(-1).argmin(-1)
            labelled = targets != VOID
            seen += int(labelled.sum())
            # Interpolated pixels between two blocks may be of neither.
            assert float((given == targets)[labelled].float().mean()) > 0.93
            flipped.add(int(labelled.sum()))
    assert seen > 0.5 * 3 * 16 * 32 * 48
    assert len(flipped) > 3


def test_what_a_small_scale_leaves_open_is_mean_colour_and_void(root: Path) -> None:
    transform = {**SCENE, "scale": [0.5, 0.5]}
    images, targets = next(iter(train_loader(config(root, train_transform=transform))))
    mean = (torch.tensor(config(root).mean) * 255).round().to(torch.uint8)
    outside = (images == mean.view(3, 1, 1)).all(1)
    assert 0.5 < float(outside.float().mean()) < 0.8
    assert bool((targets[outside] == VOID).all())


@pytest.mark.parametrize("batch", [1, 3])
def test_a_resumed_epoch_goes_on_with_the_very_next_pixels(root: Path, batch: int) -> None:
    one, other = train_loader(config(root)), train_loader(config(root, workers=2))
    batches = list(one)
    state = {**one.state_dict(), "epoch": 0, "batches": batch}
    other.load_state_dict(state)
    rest = list(other)
    assert len(rest) == len(batches) - batch
    for (images, targets), (again, masks_again) in zip(batches[batch:], rest, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(targets, masks_again)


@pytest.mark.parametrize("changes", [{"fit": "whole"}, {"fit": "sliding"}, {"fit": "sliding", "overlap": 0.0}])
@pytest.mark.parametrize("size", [(32, 48), (32, 32), (48, 32)])
def test_every_pixel_of_every_mask_is_asked_for_once(root: Path, changes: dict, size: tuple[int, int]) -> None:
    loader = validation_loader(config(root, image_size=list(size), **changes))
    counted = np.zeros(4, np.int64)
    for images, targets in loader:
        assert images.shape == (len(targets), 3, *size)
        for target in targets:
            assert target.labels.shape == (len(target.rows), len(target.columns))
            assert 0 <= int(target.rows.min()) <= int(target.rows.max()) < size[0]
            assert 0 <= int(target.columns.min()) <= int(target.columns.max()) < size[1]
            counted += np.bincount(target.labels.flatten().numpy() + 1, minlength=4)
    expected = np.zeros(4, np.int64)
    for number in range(16, 22):
        mask = scenes.scene(number)[1].astype(np.int64)
        expected += np.bincount(np.where(mask == scenes.VOID, 0, mask + 1).flatten(), minlength=4)
    assert counted.tolist() == expected.tolist()


def test_a_whole_photo_is_pillows_resize_and_its_labels_are_enlarged_by_nearest(root: Path) -> None:
    images, targets = next(iter(validation_loader(config(root))))
    photo, mask = scenes.scene(16)
    expected = Image.fromarray(photo).resize((48, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert targets[0].labels.shape == mask.shape
    given = torch.arange(32 * 48).view(32, 48).to(torch.int32)
    asked = given[targets[0].rows][:, targets[0].columns].numpy()
    assert np.array_equal(asked, enlarged(given.numpy(), (40, 56)))


@pytest.mark.parametrize(("old", "new"), [(7, 7), (7, 3), (3, 7), (480, 384), (384, 480), (1, 5)])
def test_nearest_is_the_pixel_that_holds_the_middle(old: int, new: int) -> None:
    """Counted in fractions; Pillow, which counts in floats, takes the one before where a middle lies on an edge."""
    middles = [Fraction(2 * place + 1, 2) * old / new for place in range(new)]
    found = nearest(0, new, new, old)
    assert found.tolist() == [math.floor(middle) for middle in middles]
    line = np.arange(old, dtype=np.int32)[None]
    pillow = np.asarray(Image.fromarray(line).resize((new, 1), Image.Resampling.NEAREST))[0]
    assert all(middles[place].denominator == 1 for place in np.flatnonzero(found != pillow))


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    ("whole", "seen"), [((5, 9), (5, 9)), ((5, 31), (5, 7)), ((23, 8), (4, 8)), ((40, 41), (9, 13))]
)
def test_windows_own_every_pixel_once_and_overlap(whole: tuple, seen: tuple, overlap: float) -> None:
    parts = windows(whole, seen, overlap)
    owned = np.zeros(whole, np.int64)
    for part in parts:
        top, left, bottom, right = part.box
        owned[top:bottom, left:right] += 1
        assert part.corner[0] <= top < bottom <= part.corner[0] + seen[0] <= whole[0]
        assert part.corner[1] <= left < right <= part.corner[1] + seen[1] <= whole[1]
    assert (owned == 1).all()
    for axis in (0, 1):
        starts = sorted({part.corner[axis] for part in parts})
        assert all(other - one <= max(1, seen[axis] * (1 - overlap)) for one, other in itertools.pairwise(starts))
    places = np.arange(whole[0] * whole[1]).reshape(whole)
    cut = np.stack([places[y : y + seen[0], x : x + seen[1]] for y, x in (part.corner for part in parts)])
    assert np.array_equal(joined(cut, parts, whole), places)


def test_masks_of_gray_of_16_bits_and_of_a_palette_hold_the_same_labels(root: Path) -> None:
    labels = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
    paletted = Image.fromarray(labels)
    paletted.putpalette(bytes(range(256)) * 3)
    images = [Image.fromarray(labels), Image.fromarray(labels.astype(np.uint16)), paletted]
    expected = [[0, 1, 2], [2, 1, VOID]]
    for image in images:
        assert decode_mask(scenes.encoded(image), (3, 2), config(root)).tolist() == expected
    wide = Image.fromarray(np.array([[0, 299, 300]], np.uint16))
    many = config(root, num_classes=300, ignore_index=300)
    assert decode_mask(scenes.encoded(wide), (3, 1), many).tolist() == [[0, 299, VOID]]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((40, 55), np.uint8), "the mask has 55 x 40 pixels, the photo 56 x 40"),
        (
            np.full((40, 56), 3, np.uint8),
            r"the mask has label 3, outside 0\.\.2 or 255; mend it, or set data\.num_classes",
        ),
        (np.zeros((40, 56, 3), np.uint8), "a mask of mode RGB; masks hold labels"),
        (None, r"has no mask \(\.seg\.png\), only \.png"),
    ],
)
def test_a_bad_mask_is_named_or_skipped_by_the_policy(mask: np.ndarray | None, reason: str, tmp_path: Path) -> None:
    files = []
    for number in range(4):
        photo, good = scenes.scene(number)
        files.append((f"s{number}.png", png(photo)))
        own = mask if number == 2 else good
        files += [] if own is None else [(f"s{number}.seg.png", png(own))]
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-000000.tar", files)
    with pytest.raises(DataError, match=f"val-000000.tar, sample 's2': .*{reason}"):
        list(validation_loader(config(tmp_path)))
    with pytest.raises(DataError, match=f"train-000000.tar, sample 's2': .*{reason}"):
        list(train_loader(config(tmp_path, batch_size=2)))
    loader = validation_loader(config(tmp_path, on_bad_sample="skip"))
    assert [len(targets) for _, targets in loader] == [3]
    assert loader.skipped == 1
    assert sum(len(images) for images, _ in train_loader(config(tmp_path, batch_size=2, on_bad_sample="skip"))) in (
        2,
        3,
    )


def test_calibration_sees_photos_as_evaluation_does_and_no_mask(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "decode_mask", None)
    images, labels = next(iter(calibration_loader(config(root), 4)))
    assert images.shape == (4, 3, 32, 48)
    assert labels.tolist() == [0] * 4
    whole = {np.asarray(Image.fromarray(scenes.scene(n)[0]).resize((48, 32), 2)).tobytes() for n in range(16)}
    assert {image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in images} <= whole
    sliding = next(iter(calibration_loader(config(root, fit="sliding", image_size=[32, 32]), 4)))[0]
    assert sliding.shape == (4, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit": "center"}, "with data.labels=masks say data.fit=whole, or sliding"),
        ({"layout": "folder"}, "read from shards alone"),
        ({"ignore_index": 1}, "data.ignore_index=1: is one of the 3 classes"),
        ({"num_classes": 40000, "ignore_index": None}, "masks have at most 32767 classes"),
        ({"orientation": "apply"}, "masks do not turn with their photos"),
        ({"labels": "classes"}, "for data.labels=masks"),
        ({"class_names": ["one"]}, "data.class_names has 1 names but data.num_classes=3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(root: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        config(root, **changes)


def test_colours_are_no_labels() -> None:
    from intvit.photos import mask_labels

    with pytest.raises(BrokenImage, match="mode RGBA"):
        mask_labels(scenes.encoded(Image.new("RGBA", (2, 2))), 100)


def test_labels_at_the_pixels_of_an_image_are_those_that_it_answers_for(root: Path) -> None:
    images, labels = first_images(validation_loader(config(root)), 3)
    assert (images.shape, labels.shape, labels.dtype) == ((3, 3, 32, 48), (3, 32, 48), torch.int16)
    mask = scenes.scene(17)[1].astype(np.int64)
    for y, x in ((0, 0), (5, 7), (16, 24), (31, 47)):
        answered = [
            (r, c) for r in range(40) for c in range(56) if ((2 * r + 1) * 32 // 80, (2 * c + 1) * 48 // 112) == (y, x)
        ]
        row, column = max(answered)
        assert labels[1, y, x] == (VOID if mask[row, column] == scenes.VOID else mask[row, column])


def test_a_photo_whose_windows_would_take_gigabytes_is_a_bad_sample(root: Path) -> None:
    settings = config(root, fit="sliding", max_pixels=10**6)
    line = Image.new("RGB", (60000, 1))
    with pytest.raises(BrokenImage, match=r"x 32 pixels once resized, more than max_pixels=1000000"):
        masks.evaluated(line, np.zeros((1, 60000), np.int16), settings)
