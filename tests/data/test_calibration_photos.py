"""Calibration sees training photos as in evaluation, or crops, blends and mosaics: alike for all ranks and workers."""

from collections.abc import Iterable
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch

from intvit.config.identity import identity_hash
from intvit.data.calibration_photos import PHOTOS_OF, photo_places
from intvit.data.config import DataConfig, DataError
from intvit.data.loading import calibration_labels, calibration_loader, photo_count, validation_loader
from tests.support.synthetic_shards import config, png, write_split, write_tar
from tests.support.tiny_runs import composed

SIDES = (6, 9)  # height and width of the images, one of them odd
KINDS = list(PHOTOS_OF)


def colour(number: int) -> tuple[int, int, int]:
    return 10 * number, 255 - 10 * number, 3 * number


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve photos of one colour each, 20 x 30."""
    files = []
    for number in range(12):
        pixels = np.broadcast_to(np.array(colour(number), np.uint8), (20, 30, 3))
        files += [(f"{number:02d}.png", png(pixels)), (f"{number:02d}.cls", str(number % 5).encode())]
    write_tar(tmp_path / "train-000000.tar", files)
    return tmp_path


def data(root: Path, kind: str, **changes) -> DataConfig:
    return config(root, calibration_photos=kind, image_size=SIDES, **changes)


def images_of(loaders: Iterable) -> torch.Tensor:
    """All images of loaders whose batches are one for each rank in turn, in their order."""
    steps = zip(*(list(loader) for loader in loaders), strict=True)
    return torch.cat([torch.stack([rank[0][0] for rank in ranks]) for ranks in steps])


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_alike_for_all_ranks_workers_and_batches_and_at_every_call(root: Path, kind: str) -> None:
    textured = root / "textured"
    write_split(textured, "train", [24])
    first = torch.cat([images for images, _ in calibration_loader(data(textured, kind, workers=2), 12)])
    assert first.dtype == torch.uint8
    assert first.shape == (12, 3, *SIDES)
    ranks = [
        calibration_loader(data(textured, kind, eval_batch_size=3), 12, rank=rank, world_size=3) for rank in range(3)
    ]
    assert torch.equal(images_of(ranks), first)
    torch.manual_seed(7)
    again = calibration_loader(data(textured, kind))
    again.set_epoch(3)
    assert torch.equal(torch.cat([images for images, _ in again])[:12], first)  # of more images the first are the same
    other = torch.cat([images for images, _ in calibration_loader(data(textured, kind, seed=1), 12)])
    assert torch.equal(other, first) == (kind == "center")


def test_center_is_the_evaluation_transform(root: Path) -> None:
    write_split(root / "photos", "train", [5])
    write_split(root / "photos", "val", [5])
    images = [
        torch.cat([batch for batch, _ in make(data(root / "photos", "center"))])
        for make in (calibration_loader, validation_loader)
    ]
    assert sorted(image.tolist() for image in images[0]) == sorted(image.tolist() for image in images[1])


def test_mixed_is_half_crops_a_quarter_blends_and_a_quarter_mosaics(root: Path) -> None:
    images, labels = next(iter(calibration_loader(data(root, "mixed", eval_batch_size=8), 8)))
    order = order_of_photos(root)
    colours = torch.tensor([colour(number) for number in order])
    for image, parts in zip(images, (photo_places("mixed", k) for k in range(8)), strict=True):
        painted = colours[[place % 12 for place in parts]]
        pixels = {tuple(pixel) for pixel in image.flatten(1).T.tolist()}
        if len(parts) == 1:
            assert pixels == {tuple(painted[0].tolist())}
        elif len(parts) == 2:
            assert pixels == {
                tuple(
                    floor(Fraction(6 * a + 4 * b, 10) + Fraction(1, 2)) for a, b in zip(*painted.tolist(), strict=True)
                )
            }
        else:
            corners = [image[:, 0, 0], image[:, 0, -1], image[:, -1, 0], image[:, -1, -1]]
            assert torch.equal(torch.stack(corners), painted)
            assert torch.equal(image[:, 2, 4], painted[0])  # the upper left part is 3 high and 5 wide
            assert torch.equal(image[:, 3, 5], painted[3])
    assert labels.tolist() == [order[photo_places("mixed", k)[0] % 12] % 5 for k in range(8)]


def order_of_photos(root: Path) -> list[int]:
    """Numbers of the photos in the order of calibration, by their colour."""
    loader = calibration_loader(data(root, "center"))
    return [int(image[0, 0, 0]) // 10 for images, _ in loader for image in images]


@pytest.mark.parametrize("kind", KINDS)
def test_no_photo_is_in_two_images_while_there_are_enough(kind: str) -> None:
    places = [place for image in range(64) for place in photo_places(kind, image)]
    assert places == list(range(len(places)))
    assert len(places) == photo_count(config(None, calibration_photos=kind), 64) == 64 * (2 if kind == "mixed" else 1)


def test_labels_are_those_of_every_photo_that_calibration_sees(root: Path) -> None:
    order = order_of_photos(root)
    for kind, photos in (("center", 2), ("crops", 2), ("mixed", 3)):
        assert calibration_labels(data(root, kind), 2).tolist() == [number % 5 for number in order[:photos]]


@pytest.mark.parametrize("kind", ["crops", "mixed"])
def test_crops_are_mirrored_only_where_training_mirrors(tmp_path: Path, kind: str) -> None:
    """Photos that grow brighter to the right: so do all their crops, unless they are mirrored."""
    ramp = np.broadcast_to(np.arange(0, 240, 8, dtype=np.uint8)[None, :, None], (20, 30, 3))
    write_tar(
        tmp_path / "train-000000.tar",
        [(f"{n:02d}.{e}", c) for n in range(64) for e, c in (("png", png(ramp)), ("cls", b"0"))],
    )
    for transform, expected in (({"kind": "none"}, {False}), ({"kind": "photo"}, {False, True})):
        loader = calibration_loader(data(tmp_path, kind, train_transform=transform), 32)
        crops = [image for k, image in enumerate(image for images, _ in loader for image in images) if k % 2 == 0]
        assert {bool(image[0, 0, 0] > image[0, 0, -1]) for image in crops} == expected


def test_a_broken_photo_is_named_or_leaves_out_the_images_that_it_is_in(root: Path) -> None:
    image = png(np.zeros((20, 30, 3), np.uint8))
    files = [(f"{n}.{end}", content) for n in range(8) for end, content in (("png", image), ("cls", b"0"))]
    files[2 * 3] = ("3.png", image[:40])
    write_tar(root / "broken" / "train-000000.tar", files)
    with pytest.raises(DataError, match=r"train-000000\.tar, sample '3': broken image"):
        list(calibration_loader(data(root / "broken", "mixed"), 4))
    loader = calibration_loader(data(root / "broken", "mixed", on_bad_sample="skip"), 4)
    assert sum(len(images) for images, _ in loader) == 3
    assert [bad.key for bad in loader.bad] == ["3"]


def test_another_kind_of_photos_is_another_experiment() -> None:
    usual = composed()
    assert usual["data"].pop("calibration_photos") == "center"
    assert identity_hash(usual) == identity_hash(composed())  # as before there was a choice
    assert identity_hash(composed("data.calibration_photos=mixed")) != identity_hash(composed())
