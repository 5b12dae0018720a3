"""The embedded digits: written once, equal everywhere, safe when processes start together."""

import multiprocessing
import os
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from intvit.data import digits
from intvit.data.config import DataError
from intvit.data.digits import digits_root, shard_names, split_digits
from intvit.data.reader import ShardDataset
from intvit.data.shards import open_split
from intvit.data.transforms import eval_transform
from tests.support.synthetic_shards import config


def digits_config(root=None, **changes):
    return config(root, name="digits", image_size=8, num_classes=10, class_names="digits", **changes)


def test_the_split_is_stratified_and_whole():
    labels = load_digits().target
    split = split_digits(labels)
    assert (len(split["train"]), len(split["val"])) == (1437, 360)
    assert sorted(np.concatenate(list(split.values()))) == list(range(1797))
    share = np.bincount(labels[split["val"]]) / np.bincount(labels)
    assert np.all(np.abs(share - 360 / 1797) < 0.006)
    # Frozen: published scores refer to this split.
    assert split["val"][:8].tolist() == [16, 1515, 771, 906, 893, 737, 1780, 1584]


def test_shards_hold_every_digit_with_its_pixels(digits_cache, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(digits_cache))
    source = load_digits()
    data = digits_config()
    for split, count in (("train", 1437), ("val", 360)):
        index = open_split(data, split)
        assert len(index) == count
        assert len(index.names) == digits.SHARDS[split] > 1
        assert all(len(np.unique(part)) == 10 for part in np.split(index.labels, np.cumsum(index.counts)[:-1]))
        samples = ShardDataset(index, eval_transform(data))
        for position, number in list(enumerate(split_digits(source.target)[split]))[::50]:
            image, label = samples[position]
            assert label == source.target[number]
            gray_values = np.round(image.numpy() * (16 / 255))
            assert np.array_equal(gray_values, np.stack([source.images[number]] * 3))


def test_the_second_use_finds_them_and_the_bytes_never_change(digits_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(digits_cache))
    stamps = [(digits_root() / name).stat().st_mtime_ns for name in shard_names()]
    assert [(digits_root() / name).stat().st_mtime_ns for name in shard_names()] == stamps
    first = [(digits_root() / name).read_bytes() for name in shard_names()]
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    assert [(digits_root() / name).read_bytes() for name in shard_names()] == first
    assert os.listdir(tmp_path) == [f"digits-v{digits.VERSION}"]


def _root_after(barrier, results):
    barrier.wait()
    results.put((str(digits_root()), len(open_split(digits_config(), "train"))))


def test_processes_that_start_together_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_root_after, args=(barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {(str(tmp_path / f"digits-v{digits.VERSION}"), 1437)}
    assert len(os.listdir(tmp_path)) == 1


def test_a_process_that_comes_second_keeps_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    root = digits_root()
    before = root.stat().st_ino
    digits._write(root)
    assert root.stat().st_ino == before
    assert os.listdir(tmp_path) == [root.name]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "_png", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        digits_root()
    assert os.listdir(tmp_path) == []


def test_a_folder_with_a_shard_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    (digits_root() / "train-000002.tar").unlink()
    with pytest.raises(DataError, match=r"digits-v1: train-000002.tar is missing; remove the folder"):
        digits_root()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*; say INTVIT_CACHE=DIR, a writable folder$"):
        digits_root()


def test_missing_scikit_learn_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"^data=digits needs scikit-learn, .* pip install 'intvit\[demo\]'"):
        digits_root()


def test_digits_under_a_root_of_their_own_are_read_from_there(tmp_path, monkeypatch):
    monkeypatch.setenv("INTVIT_CACHE", str(tmp_path / "unused"))
    with pytest.raises(DataError, match="no such folder"):
        open_split(digits_config(root=str(tmp_path / "mine")), "train")
    assert not (tmp_path / "unused").exists()
