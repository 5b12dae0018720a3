"""`intvit shards create` of photos with masks: four layouts, labels as training wants them, an index that is read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intvit.commands import main
from intvit.config.values import build
from intvit.data.config import DataConfig, DataError
from intvit.data.loading import validation_loader
from intvit.data.masks import VOID, MaskDataset
from intvit.data.shard_tools.source_masks import find_masked
from intvit.data.shard_tools.verify import verify
from intvit.data.shards import open_split
from tests.support import scenes
from tests.support.synthetic_shards import write_tar
from tests.support.tiny_runs import composed


def config(root: Path, **changes: object) -> DataConfig:
    return build(DataConfig, {**composed(*scenes.overrides(root))["data"], **changes}, "data")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def camvid(source: Path, split: str, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    save(source / split / f"{name}.png", photo)
    save(source / f"{split}annot" / f"{name}.png", mask)


def cityscapes(source: Path, split: str, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    """Labels as identities: road 7, sidewalk 8, building 11; 0 is unlabeled."""
    save(source / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png", photo)
    identities = np.array([7, 8, 11], np.uint8)
    labels = np.where(mask == scenes.VOID, 0, identities[np.minimum(mask, 2)]).astype(np.uint8)
    save(source / "gtFine" / split / "aachen" / f"{name}_gtFine_labelIds.png", labels)


def ade20k(source: Path, split: str, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    save(source / "images" / folder / f"{name}.png", photo)
    save(source / "annotations" / folder / f"{name}.png", (mask + 1).astype(np.uint8))  # 255 becomes 0


def voc(source: Path, split: str, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    path = source / "JPEGImages" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(path, quality=95)
    save(source / "SegmentationClass" / f"{name}.png", mask)
    listed = source / "ImageSets" / "Segmentation" / f"{split}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    with listed.open("a") as file:
        file.write(f"{name}\n")


LAYOUTS = {"camvid": camvid, "cityscapes": cityscapes, "ade20k": ade20k, "voc": voc}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_of_every_layout_hold_the_same_labels(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in range(5):
        LAYOUTS[layout](tmp_path / "src", "val" if number == 4 else "train", f"s{number}", *scenes.scene(number))
    command = ["shards", "create", str(tmp_path / "src"), str(tmp_path / "dst"), "--workers", "1"]
    main(command)
    assert "train 4 samples in 1 shards" in capsys.readouterr().out
    main(command)
    assert "holds these shards, finished" in capsys.readouterr().out
    main(["shards", "info", str(tmp_path / "dst")])
    assert "masks" in capsys.readouterr().out
    index = open_split(config(tmp_path / "dst"), "train")
    assert index.shuffled
    expected = {}
    for number in range(4):
        mask = scenes.scene(number)[1].astype(np.int16)
        expected[np.where(mask == scenes.VOID, VOID, mask).astype(np.int16).tobytes()] = number
    found = [sample[0][1].labels.numpy().tobytes() for sample in MaskDataset(config(tmp_path / "dst"), index)]
    assert sorted(expected[labels] for labels in found) == [0, 1, 2, 3]
    verified = verify(tmp_path / "dst", None, 10**6, 1)
    assert (verified.samples, verified.problems) == (5, [])


def test_an_index_of_masks_is_written_for_shards_of_others_and_told_from_one_of_classes(tmp_path: Path) -> None:
    scenes.write_scenes(tmp_path)
    before = open_split(config(tmp_path), "val")
    main(["shards", "index", str(tmp_path), "--masks", "--workers", "1"])
    after = open_split(config(tmp_path), "val")
    assert after.masks is not None
    assert before.masks is not None
    assert np.array_equal(after.masks, before.masks)
    assert len(next(iter(validation_loader(config(tmp_path))))[1]) == 4
    changes = {"labels": "classes", "fit": "center", "train_transform": {"kind": "none"}}
    with pytest.raises(DataError, match=r"labels are masks, data\.labels=classes"):
        open_split(config(tmp_path, **changes), "val")
    main(["shards", "index", str(write_classes(tmp_path / "other")), "--workers", "1"])
    with pytest.raises(DataError, match=r"labels are classes, data\.labels=masks; .*`intvit shards index DIR --masks`"):
        open_split(config(tmp_path / "other"), "val")


def write_classes(root: Path) -> Path:
    photo = scenes.encoded(Image.fromarray(scenes.scene(0)[0]))
    write_tar(root / "val-000000.tar", [("a.png", photo), ("a.cls", b"0")])
    return root


def test_a_photo_without_its_mask_and_a_mask_of_another_size_are_named(tmp_path: Path) -> None:
    photo, mask = scenes.scene(0)
    camvid(tmp_path / "src", "train", "a", photo, mask)
    save(tmp_path / "src" / "train" / "b.png", photo)
    create = ["shards", "create", str(tmp_path / "src"), str(tmp_path / "dst"), "--workers", "1"]
    with pytest.raises(DataError, match=r"train/b\.png: has no mask .*trainannot/b\.png; add it"):
        find_masked(tmp_path / "src")
    save(tmp_path / "src" / "trainannot" / "b.png", mask[:-1])
    main(create)
    (problem,) = verify(tmp_path / "dst", None, 10**6, 1).problems
    assert "sample 'b': broken image (the mask has 56 x 39 pixels, the photo 56 x 40)" in problem
