"""Samples read by position: right bytes, repeatable random transforms, named faults."""

import pickle
import random
import warnings

import numpy as np
import pytest
import torch

from intvit.data import source
from intvit.data.config import DataError
from intvit.data.reader import ShardDataset, seeded
from intvit.data.shards import open_split
from intvit.data.transforms import eval_transform, train_transform
from tests.support.synthetic_shards import IMAGE_SIZE, config, number_of, numbered_image, png, write_split, write_tar


def dataset(root, **changes) -> ShardDataset:
    data = config(root, **changes)
    return ShardDataset(open_split(data, "val"), eval_transform(data))


def test_a_position_gives_its_own_image_and_label(tmp_path):
    write_split(tmp_path, "val", [3, 1, 6])
    samples = dataset(tmp_path)
    for position in [9, 0, 5, 3, 2]:
        image, label = samples[position]
        assert image.dtype == torch.uint8
        assert image.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), numbered_image(position))
        assert label == position % 5


def test_more_shards_than_may_be_open_are_read_and_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "OPEN_SHARDS", 2)
    write_split(tmp_path, "val", [2] * 5)
    samples = dataset(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert [number_of(samples[p][0]) for p in (0, 9, 4, 1, 8, 2)] == [0, 9, 4, 1, 8, 2]
    assert len(samples.index.source._files) == 2


def test_a_used_dataset_can_be_sent_to_a_worker(tmp_path):
    write_split(tmp_path, "val", [2])
    samples = dataset(tmp_path)
    expected = samples[1]
    assert torch.equal(pickle.loads(pickle.dumps(samples))[1][0], expected[0])


@pytest.mark.parametrize("content", [b"", b"no image", png(numbered_image(1))[:60]])
def test_a_broken_image_is_named_with_shard_and_key(tmp_path, content):
    write_tar(tmp_path / "val-000000.tar", [("whole.png", png(numbered_image(0))), ("whole.cls", b"0")])
    write_tar(tmp_path / "val-000001.tar", [("torn.png", content), ("torn.cls", b"0")])
    with pytest.raises(DataError, match=r"val-000001.tar, sample 'torn': broken image \(.+\); mend or") as raised:
        dataset(tmp_path)[1]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("auto_augment", ["rand-m9-n3-mstd0.5", "augmix-m3-w3", None])
def test_random_changes_depend_on_seed_epoch_and_position_alone(tmp_path, auto_augment):
    write_split(tmp_path, "val", [6])
    options = {"kind": "photo", "auto_augment": auto_augment}
    data = config(tmp_path, train_transform=options, image_size=16, seed=5)

    def read(position, epoch=0, seed=5):
        samples = ShardDataset(open_split(data, "val"), train_transform(data), seed=seed)
        samples.epoch = epoch
        return samples[position][0]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = [read(position) for position in range(6)]
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    again = [read(position) for position in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(image, read(position, epoch=1)) for position, image in enumerate(first))
    assert not all(torch.equal(image, read(position, seed=6)) for position, image in enumerate(first))


def test_reading_leaves_the_training_generators_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seed():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    seed()
    expected = draw()
    seed()
    with seeded("anything"):
        assert draw() != expected
    assert draw() == expected
