"""The index equals what webdataset reads, and every fault of a shard is named with its way out."""

import tarfile

import numpy as np
import pytest
import webdataset

from intvit.data.config import DataError
from intvit.data.shards import open_split
from tests.support.synthetic_shards import config, numbered_image, png, write_split, write_tar

IMAGE = png(numbered_image(0))


def test_the_index_holds_webdatasets_samples(tmp_path):
    write_split(tmp_path, "val", [7, 3, 5])
    path = tmp_path / "val-000001.tar"
    long = "folder/" + "long" * 40  # beyond a plain tar header
    first = [("a.png", IMAGE), ("a.json", b"{}"), ("a.cls", b"4\n")]
    write_tar(path, [*first, (f"{long}.cls", b"1"), (f"{long}.PNG", IMAGE)])
    index = open_split(config(tmp_path), "val")
    urls = [str(shard) for shard in sorted(tmp_path.glob("*.tar"))]
    expected = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(index) == len(expected) == 14
    assert index.counts.tolist() == [7, 2, 5]
    for position, sample in enumerate(expected):
        assert index.read(position) == sample["png"]
        assert index.labels[position] == int(sample["cls"])
        assert str(index.bad_sample(position, "x")) == f"{sample['__url__']}, sample '{sample['__key__']}': x"


def test_a_changed_shard_is_indexed_again(tmp_path):
    write_split(tmp_path, "val", [4])
    assert len(open_split(config(tmp_path), "val")) == 4
    write_split(tmp_path, "val", [6])
    assert len(open_split(config(tmp_path), "val")) == 6


def test_the_root_must_be_named():
    with pytest.raises(DataError, match=r"^data.root is not set: say data.root=DIR, a folder of webdataset shards"):
        open_split(config(None), "val")


def test_the_root_must_exist(tmp_path):
    with pytest.raises(DataError, match=r"^data.root=.*/nowhere: no such folder; say data.root=DIR"):
        open_split(config(tmp_path / "nowhere"), "val")


def test_the_root_must_hold_shards(tmp_path):
    with pytest.raises(DataError, match=r"^data.root=.*: holds no train-\*.tar and no val-\*.tar; say data.root=DIR"):
        open_split(config(tmp_path), "val")


def test_validation_shards_suffice_for_validation_only(tmp_path):
    write_split(tmp_path, "val", [4])
    assert len(open_split(config(tmp_path), "val")) == 4
    with pytest.raises(DataError, match=r"has val-\*.tar but no train-\*.tar, which training and calibration need"):
        open_split(config(tmp_path), "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", IMAGE), ("b.cls", b"1")], r"val-000000.tar, sample 'a': has no label \(.cls\), only .png; "),
        ([("a.cls", b"1"), ("a.txt", b"1")], r"sample 'a': has no image \(.jpg, .jpeg or .png\), only .cls, .txt; "),
        ([("a.v2.png", IMAGE), ("a.v2.cls", b"1")], r"sample 'a': has no label \(.cls\), only .v2.png, .v2.cls; "),
        ([("a.png", IMAGE), ("a.cls", b"5")], r"sample 'a': label 5 is outside 0..4; mend it or set data.num_classes$"),
        ([("a.png", IMAGE), ("a.cls", b"-1")], r"sample 'a': label -1 is outside 0..4"),
        ([("a.png", IMAGE), ("a.cls", b"cat")], r"sample 'a': label b'cat' is not a number; .cls must hold the class"),
        ([("a.png", IMAGE), ("a.png", IMAGE)], r"val-000000.tar: broken shard \(a.png: duplicate file name"),
        ([], r"its 1 val-\*.tar hold no samples$"),
    ],
)
def test_a_wrong_sample_is_named(tmp_path, files, message):
    write_tar(tmp_path / "val-000000.tar", files)
    with pytest.raises(DataError, match=message) as raised:
        open_split(config(tmp_path), "val")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("where", ["inside a file", "between two files", "inside a header", "at the start"])
def test_a_cut_off_shard_is_not_taken_for_a_shorter_one(tmp_path, where):
    write_split(tmp_path, "val", [9])
    path = tmp_path / "val-000000.tar"
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-2]
    cut = {
        "inside a file": last.offset_data + 1,
        "between two files": last.offset,
        "inside a header": last.offset + 100,
        "at the start": 0,
    }
    path.write_bytes(path.read_bytes()[: cut[where]])
    with pytest.raises(DataError, match=r"val-000000.tar: broken shard \(.+\); write it again$"):
        open_split(config(tmp_path), "val")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    write_split(tmp_path, "val", [9])
    path = tmp_path / "val-000000.tar"
    with tarfile.open(path) as archive:
        start = archive.getmembers()[6].offset
    content = bytearray(path.read_bytes())
    content[start + 10] ^= 1  # the header's checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken shard \(neither a file nor the end mark at byte {start}\)"):
        open_split(config(tmp_path), "val")


def test_real_shards_are_indexed_whole(real_data):
    data = config(real_data / "imagenette224", num_classes=1000)
    train, val = open_split(data, "train"), open_split(data, "val")
    assert (len(train), len(train.names), len(val), len(val.names)) == (9103, 8, 3791, 4)
    assert len(np.unique(train.labels)) == len(np.unique(val.labels)) == 10
