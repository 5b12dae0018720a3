"""data=folder: the exact plan of shards over a tree of photos, and no label that is silently another."""

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from intvit.data.classes import class_names
from intvit.data.config import DataError
from intvit.data.loading import calibration_loader, train_loader, validation_loader
from intvit.data.shards import open_split
from intvit.errors import IntVitError
from tests.support.photo_trees import tree_config, write_tree
from tests.support.synthetic_shards import number_of, numbered_image, png

TRAIN, VAL = {"cat": 5, "ant": 9, "Bee two, small": 7, "été": 2}, {"cat": 2, "ant": 3, "été": 1}
CLASSES = ["Bee two, small", "ant", "cat", "été"]


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "my photos"
    write_tree(folder / "train", TRAIN)
    write_tree(folder / "validation", VAL, first=100)
    return folder


def numbers(loader) -> list[int]:
    return [number_of(image) for images, _ in loader for image in images]


def labelled(loader, classes) -> dict[int, str]:
    return {
        number_of(image): classes[label]
        for images, labels in loader
        for image, label in zip(images, labels.tolist(), strict=True)
    }


def names_of(counts: dict[str, int], first: int = 0) -> dict[int, str]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return {first + number: name for number, name in enumerate(names)}


def test_every_photo_comes_once_with_the_label_of_its_folder(root):
    data = tree_config(f"{root}/")
    assert (data.num_classes, class_names(data)) == (4, CLASSES)
    assert labelled(validation_loader(data), CLASSES) == names_of(VAL, 100)
    assert labelled(calibration_loader(data), CLASSES) == names_of(TRAIN)
    loaders = [train_loader(data, rank=rank, world_size=2) for rank in range(2)]
    seen = Counter(number for loader in loaders for number in numbers(loader))
    assert len(seen) == 16
    assert set(seen.values()) == {1}


def test_workers_change_nothing_and_a_resumed_epoch_goes_on_with_the_next_photo(root):
    whole = train_loader(tree_config(root))
    whole.set_epoch(3)
    expected = numbers(whole)
    stopped = train_loader(tree_config(root, workers=2))
    stopped.set_epoch(3)
    batches = iter(stopped)
    begun = [number_of(image) for _ in range(2) for image in next(batches)[0]]
    batches.close()
    resumed = train_loader(tree_config(root))
    resumed.load_state_dict(stopped.state_dict())
    assert begun + numbers(resumed) == expected


def test_a_tree_that_changed_is_listed_again_and_refuses_an_older_position(root):
    state = train_loader(tree_config(root)).state_dict()
    assert len(open_split(tree_config(root), "train")) == 23
    os.utime(root / "train" / "ant", ns=(0, 0))  # the clock of a file system may stand still between two writes
    open_split(tree_config(root), "train")
    (root / "train" / "ant" / "deeper").mkdir()
    (root / "train" / "ant" / "deeper" / "new.JPEG").write_bytes(png(numbered_image(50)))
    assert len(open_split(tree_config(root), "train")) == 24
    with pytest.raises(DataError, match=r"ckpt: saved with samples .*; the shards have changed"):
        train_loader(tree_config(root)).load_state_dict(state)


def test_photos_of_every_kind_and_depth_are_taken_and_the_rest_is_counted_and_named(root, caplog):
    ant = root / "train" / "ant"
    for name in ("A.JPG", "b.jpeg", "c.WebP", "d.TIFF", "deep/er/e.bmp"):
        (ant / name).parent.mkdir(parents=True, exist_ok=True)
        (ant / name).write_bytes(png(numbered_image(1)))
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "linked.png").write_bytes(png(numbered_image(2)))
    (ant / "folder").symlink_to(root / "elsewhere")
    (ant / "file.png").symlink_to(root / "elsewhere" / "linked.png")
    (root / "train" / "dog").symlink_to(root / "elsewhere")
    (ant / "round").symlink_to(root / "train" / "ant")
    (ant / "nowhere.png").symlink_to(root / "gone.png")
    (ant / "notes.txt").write_text("x")
    (ant / "clip.mp4").write_text("x")
    (root / "train" / "loose.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        index = open_split(tree_config(root), "train")
    assert len(index) == 23 + 5 + 2 + 1
    for reason in ("1 .txt (such as", "1 .mp4", "nowhere.png", "round", "1 files in no class folder"):
        assert reason in caplog.text
    assert class_names(tree_config(root)) == ["Bee two, small", "ant", "cat", "dog", "été"]


def test_what_systems_leave_behind_is_no_class_and_no_photo(root):
    before = open_split(tree_config(root), "train").fingerprint()
    for name in (".ipynb_checkpoints", "._cat", "@eaDir", "__MACOSX", "Thumbs.db", ".DS_Store", ".empty"):
        for where in (".", "train", "train/ant", "validation"):
            (root / where / name).mkdir()
            (root / where / name / "x.png").write_bytes(b"" if name == ".empty" else png(numbered_image(0)))
    (root / "train" / "ant" / "._photo0.png").write_bytes(b"resource fork")
    data = tree_config(root)
    assert class_names(data) == CLASSES
    assert open_split(data, "train").fingerprint() == before


def test_a_class_without_photos_keeps_its_label_and_is_named(root, caplog):
    (root / "train" / "bear").mkdir()
    (root / "train" / "bear" / ".hidden.png").write_bytes(b"")
    data = tree_config(root)
    with caplog.at_level(logging.WARNING):
        labels = open_split(data, "train").labels
    assert "1 of 5 classes have no photos: bear" in caplog.text
    assert class_names(data)[2] == "bear"
    assert sorted(set(labels.tolist())) == [0, 1, 3, 4]


def test_numbers_as_names_are_ordered_as_imagefolder_orders_them_and_that_is_said(tmp_path, caplog):
    write_tree(tmp_path / "train", {"2": 2, "10": 3, "1": 1})
    with caplog.at_level(logging.WARNING):
        index = open_split(tree_config(tmp_path), "train")
    assert np.bincount(index.labels).tolist() == [1, 3, 2]
    assert "folders are numbers, labels their order as texts: 1, 10, 2" in caplog.text


def test_one_folder_is_divided_by_the_paths_alone(tmp_path):
    write_tree(tmp_path, {"a": 40, "b": 60, "test": 1})
    parts = [open_split(tree_config(tmp_path, "data.split=0.8"), split) for split in ("train", "val")]
    paths = [[part.path(position) for position in range(len(part))] for part in parts]
    assert sorted(paths[0] + paths[1]) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*.png"))
    assert 70 < len(paths[0]) < 92
    write_tree(tmp_path, {"c": 30})
    grown = [open_split(tree_config(tmp_path, "data.split=0.8"), split) for split in ("train", "val")]
    for before, after in zip(paths, grown, strict=True):
        assert set(before) == {p for n in range(len(after)) if not (p := after.path(n)).startswith("c/")}
    for split, share in (("train", 1.0), ("val", 0.0)):
        assert len(open_split(tree_config(tmp_path, f"data.split={share}"), split)) == 131


def test_a_name_written_in_two_ways_is_one_class_name(tmp_path):
    write_tree(tmp_path / "train", {unicodedata.normalize("NFD", "été"): 1, "a": 1})
    write_tree(tmp_path / "val", {unicodedata.normalize("NFC", "été"): 1})
    assert open_split(tree_config(tmp_path), "val").labels.tolist() == [1]
    (tmp_path / "train" / unicodedata.normalize("NFC", "été")).mkdir()
    with pytest.raises(IntVitError, match=r"another folder has the same name, written otherwise; join the two"):
        tree_config(tmp_path)


def test_a_broken_photo_is_named_by_its_path_or_skipped(root):
    (root / "validation" / "cat" / "photo1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"validation/cat/photo1.png: broken image \(none of .*on_bad_sample=skip"):
        list(validation_loader(tree_config(root)))
    loader = validation_loader(tree_config(root, on_bad_sample="skip"))
    assert sorted(numbers(loader)) == [100, 102, 103, 104, 105]
    assert loader.skipped == 1


def test_wordnet_ids_take_imagenets_labels_where_the_data_says_imagenet(tmp_path):
    write_tree(tmp_path / "val", {"n03000684": 1, "n02102040": 1, "n01440764": 1})
    imagenet = {"num_classes": 1000, "class_names": "imagenet"}
    assert open_split(tree_config(tmp_path, **imagenet), "val").labels.tolist() == [0, 217, 491]
    assert open_split(tree_config(tmp_path), "val").labels.tolist() == [0, 1, 2]
    write_tree(tmp_path / "val", {"cat": 1})
    with pytest.raises(DataError, match=r"class 'cat' is no WordNet id of ImageNet, .*say data.num_classes=4"):
        open_split(tree_config(tmp_path, **imagenet), "val")


def test_splits_may_be_written_with_capitals(tmp_path):
    write_tree(tmp_path / "Train", {"a": 1, "b": 1})
    write_tree(tmp_path / "VAL", {"b": 1})
    assert open_split(tree_config(tmp_path), "train").labels.tolist() == [0, 1]
    assert open_split(tree_config(tmp_path), "val").labels.tolist() == [1]


MISTAKES = {
    "nothing there": (lambda root: (), (), r"holds no folders; say data.root=DIR"),
    "classes at the top": (lambda root: write_tree(root, {"a": 1, "b": 1}), (), r"holds a, b but no train and no val"),
    "both kinds": (
        lambda root: write_tree(root / "train", {"a": 1}),
        ("data.split=0.9",),
        r"holds train, which are ",
    ),
    "no train": (lambda root: write_tree(root / "val", {"a": 1}), (), r"has val/ but no train/; add it there, or say"),
    "a class of val alone": (
        lambda root: [write_tree(root / split, {name: 1}) for split, name in (("train", "a"), ("val", "b"))],
        (),
        r"val/b: train has no such class; move it away, or give train such a folder",
    ),
    "two for val": (
        lambda root: [write_tree(root / split, {"a": 1}) for split in ("train", "val", "validation")],
        (),
        r"holds val and validation; leave one as the split",
    ),
    "a split in a folder of its own": (
        lambda root: write_tree(root / "train" / "train", {"a": 1, "b": 1}),
        (),
        r"train: its only class is train, which looks like a split .*; move what it holds one folder up",
    ),
    "a name of other bytes": (
        lambda root: write_tree(root / "train", {os.fsdecode(b"caf\xe9"): 1, "b": 1}),
        (),
        r"a class needs a name in UTF-8, as programs hold it; rename it",
    ),
    "shards": (lambda root: (root / "train-0.tar").touch(), (), r"shards, read with data=imagenet"),
    "no photos": (lambda root: (root / "train" / "a").mkdir(parents=True), (), r"hold no photos for train"),
    "photos without classes": (
        lambda root: [write_tree(root, {split: 1}) for split in ("train", "val")],
        (),
        r"train: holds no class folders",
    ),
    "another number of classes": (
        lambda root: write_tree(root / "train", {"a": 1}),
        ("data.num_classes=3",),
        r"has 1 class folders, data.num_classes=3; give every class a folder",
    ),
    "a cache": (
        lambda root: write_tree(root / "train", {"a": 1}),
        ("data.cache=/tmp",),
        r"data.cache=/tmp: copies shards, and a tree of photos is read where it lies",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_way_out(tmp_path, mistake):
    make, overrides, message = MISTAKES[mistake]
    make(tmp_path)
    with pytest.raises(IntVitError, match=message) as raised:
        [open_split(tree_config(tmp_path, *overrides), split) for split in ("train", "val")]
    assert "\n" not in str(raised.value)


def test_test_stands_for_val_where_there_is_none(tmp_path):
    write_tree(tmp_path / "training", {"a": 1, "b": 1})
    write_tree(tmp_path / "test", {"b": 2})
    assert open_split(tree_config(tmp_path), "val").labels.tolist() == [1, 1]


def test_home_is_known_by_its_sign(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(open_split(tree_config("~/my photos"), "train")) == 23
