"""`intvit shards`: every image once, equal bytes for equal settings, a kill loses nothing, verify finds what is off."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from intvit.commands import main
from intvit.data.classes import class_names
from intvit.data.config import DataError
from intvit.data.index import read_index
from intvit.data.loading import validation_loader
from intvit.data.shard_tools import create as creating
from intvit.data.shard_tools.source_images import find_images
from intvit.data.shards import open_split
from tests.support.quick import slow_but
from tests.support.synthetic_shards import config, numbered_image, png, write_split, write_tar


def shards(*arguments) -> int:
    return main(["shards", *map(str, arguments)])


def write_folders(root: Path, classes: dict[str, int], first: int = 0) -> dict[str, bytes]:
    """Class folders of numbered images; key -> content."""
    contents = {}
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            data = png(numbered_image(first + len(contents)))
            (root / name / f"image.{number}.PNG").write_bytes(data)
            contents[f"{name}/image_{number}"] = data
    return contents


@pytest.fixture
def source(tmp_path) -> Path:
    root = tmp_path / "source"
    write_folders(root / "train", {"cat": 13, "ant": 8, "bee": 21})
    write_folders(root / "val", {"bee": 3, "cat": 2}, first=100)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return root


def contents(folder: Path, split: str) -> list[tuple[str, bytes, int]]:
    urls = [str(path) for path in sorted(folder.glob(f"{split}-*.tar"))]
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return [(sample["__key__"], sample["png"], int(sample["cls"])) for sample in samples]


def test_folders_become_shards_with_every_image_once(source, tmp_path, capsys):
    target = tmp_path / "shards"
    assert shards("create", source, target, "--shard-mb", 0.02) == 0
    assert "train 42 samples in 5 shards" in capsys.readouterr().out
    index = read_index((target / "index.json").read_bytes(), "index.json")
    assert index.classes == ("ant", "bee", "cat")
    for split, expected in (("train", {"cat": 13, "ant": 8, "bee": 21}), ("val", {"bee": 3, "cat": 2})):
        found = contents(target, split)
        files = {
            f"{path.parent.name}/{path.stem.replace('.', '_')}": path.read_bytes()
            for path in (source / split).glob("*/*.PNG")
        }
        assert {key: data for key, data, _ in found} == files
        assert len(found) == len(files)
        assert Counter(index.classes[label] for _, _, label in found) == expected
        assert all(key.startswith(index.classes[label]) for key, _, label in found)
        assert all(path.stat().st_size <= 20_480 for path in target.glob("*.tar"))
    assert not (target / creating.UNFINISHED).exists()
    assert [key for key, _, _ in contents(target, "train")] != sorted(key for key, _, _ in contents(target, "train"))
    assert shards("verify", target) == 0
    assert shards("info", target) == 0
    assert shards("create", source, target, "--shard-mb", 0.02) == 0
    assert "finished" in capsys.readouterr().out


def test_training_reads_what_create_wrote_from_its_index_alone(source, tmp_path):
    target = tmp_path / "shards"
    shards("create", source, target, "--shard-mb", 0.02)
    for split in ("train", "val"):
        indexed = open_split(config(target), split)
        assert indexed.shuffled
        assert [(indexed.read(p), indexed.labels[p]) for p in range(len(indexed))] == [
            (data, label) for _, data, label in contents(target, split)
        ]
    labels = [int(label) for _, batch in validation_loader(config(target)) for label in batch]
    assert labels == [label for _, _, label in contents(target, "val")]


def test_an_exported_program_can_take_its_names_from_the_index(source, tmp_path):
    target = tmp_path / "shards"
    shards("create", source, target)
    data = config(target, num_classes=3, class_names="index")
    assert class_names(data) == ["ant", "bee", "cat"]
    with pytest.raises(DataError, match=r"index.json: names 3 classes, data.num_classes=5"):
        class_names(config(target, class_names="index"))
    with pytest.raises(DataError, match=r"index.json: cannot be read.*; data.class_names=indices needs none"):
        class_names(config(source, class_names="index"))


def test_equal_settings_give_equal_bytes_and_other_seeds_another_order(source, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        shards("create", source, tmp_path / name, "--seed", seed, "--workers", 1 + (name == "b"))
    first, again, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b", "c")
    )
    assert first == again
    assert first["train-000000.tar"] != other["train-000000.tar"]


def test_other_settings_and_other_contents_are_never_mixed(source, tmp_path, capsys):
    target = tmp_path / "shards"
    shards("create", source, target)
    for changes in (["--seed", 1], ["--shard-mb", 1]):
        with pytest.raises(SystemExit):
            shards("create", source, target, *changes)
        assert "holds shards of other settings" in capsys.readouterr().err
    write_folders(source / "train", {"cat": 14})
    with pytest.raises(SystemExit):
        shards("create", source, target)
    assert "other settings: images" in capsys.readouterr().err
    (target / "index.json").unlink()
    with pytest.raises(SystemExit):
        shards("create", source, target)
    assert "is not empty and holds no unfinished shards of this command" in capsys.readouterr().err


@pytest.mark.parametrize("seed", slow_but((0,), range(3)))
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path, seed):
    """kill -9 of the whole process group, some times; the result equals that of one run."""
    source = tmp_path / "source" / "train"
    write_folders(source, {"a": 150, "b": 150})
    command = [sys.executable, "-m", "intvit.commands", "shards", "create", str(tmp_path / "source")]
    options = ["--shard-mb", "0.01", "--workers", "2"]
    subprocess.run([*command, str(tmp_path / "whole"), *options], check=True, capture_output=True)
    target, killed = tmp_path / "killed", 0
    draw = np.random.default_rng(seed)
    for attempt in range(20):
        process = subprocess.Popen([*command, str(target), *options], start_new_session=True, stdout=subprocess.DEVNULL)
        goal = len(list(target.glob("*.tar"))) + int(draw.integers(0, 8))
        while process.poll() is None and attempt < 4:
            if (target / creating.UNFINISHED).exists() and len(list(target.glob("*.tar"))) >= goal:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.001)
        if process.wait() == 0:
            break
    assert killed >= 2
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in target.iterdir()} == whole


def test_ilsvrcs_own_tars(tmp_path, capsys):
    """A tar of a tar for each class, and a flat tar of validation images with the labels in a file."""
    wnids = ["n01440764", "n01443537", "n15075141"]
    inner, number = [], 0
    for wnid in reversed(wnids):  # the order in the tar does not matter
        files = []
        for _ in range(4):
            files.append((f"{wnid}_{number}.JPEG", png(numbered_image(number))))
            number += 1
        path = write_tar(tmp_path / f"{wnid}.tar", files)
        inner.append((path.name, path.read_bytes()))
    source = tmp_path / "source"
    write_tar(source / "ILSVRC2012_img_train.tar", inner)
    val = [(f"ILSVRC2012_val_{n:08d}.JPEG", png(numbered_image(100 + n))) for n in (1, 2, 3)]
    write_tar(source / "ILSVRC2012_img_val.tar", val)
    with pytest.raises(DataError, match=r"img_val.tar: has no labels in it; say --val-labels FILE"):
        find_images(source)
    (source / "numbers.txt").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"numbers are not taken, as two orders of the classes are in use"):
        find_images(source, val_labels=source / "numbers.txt")
    (source / "words.txt").write_text(f"{wnids[2]}\n{wnids[0]}\n{wnids[2]}\n")
    by_line = find_images(source, val_labels=source / "words.txt")
    (source / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        f"ILSVRC2012_val_00000003,{wnids[2]} 1 2 3 4 {wnids[2]} 5 6 7 8 \n"
        f"ILSVRC2012_val_00000001,{wnids[2]} 1 2 3 4\nILSVRC2012_val_00000002,{wnids[0]} 1 2 3 4\n"
    )
    assert find_images(source) == by_line
    target = tmp_path / "shards"
    assert shards("create", source, target, "--workers", 1) == 0
    urls = [str(target / f"{split}-000000.tar") for split in ("train", "val")]
    found = {s["__key__"]: (s["jpg"], int(s["cls"])) for s in webdataset.WebDataset(urls, shardshuffle=False)}
    assert len(found) == 15
    for wnid, (_, content) in zip(reversed(wnids), inner, strict=True):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names = [Path(name).stem for name in archive.getnames()]
        for name in names:
            data, label = found[name]
            assert wnids[label] == wnid
            assert data == png(numbered_image(int(name.split("_")[1])))
    assert [found[f"ILSVRC2012_val_{n:08d}"][1] for n in (1, 2, 3)] == [2, 0, 2]
    assert shards("verify", target) == 0


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, r"no such folder"),
        (
            lambda root: (root / "cat").mkdir(parents=True),
            r"holds neither ILSVRC2012_img_train.tar nor train/ and val/",
        ),
        (lambda root: (root / "train").mkdir(parents=True), r"train: holds no class folders"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), r"its class folders hold no .jpg, .jpeg or .png"),
        (
            lambda root: [write_folders(root / s, {c: 1}) for s, c in (("train", "a"), ("val", "b"))],
            r"train has no such",
        ),
    ],
)
def test_a_source_without_images_is_named(tmp_path, prepare, message):
    prepare(tmp_path / "source")
    with pytest.raises(DataError, match=message):
        find_images(tmp_path / "source")


def test_shards_of_others_are_indexed(tmp_path, capsys):
    write_split(tmp_path, "train", [5, 0, 8])
    write_split(tmp_path, "val", [3])
    scanned = [open_split(config(tmp_path), split) for split in ("train", "val")]
    assert shards("index", tmp_path) == 0
    indexed = [open_split(config(tmp_path), split) for split in ("train", "val")]
    for before, after in zip(scanned, indexed, strict=True):
        assert before.fingerprint() == after.fingerprint()
        assert before is not after
        assert not after.shuffled
    assert shards("verify", tmp_path) == 0
    assert shards("info", tmp_path) == 0
    assert "written by another program" in capsys.readouterr().out


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def damage_bytes(folder: Path) -> None:
    content = bytearray((folder / "train-000001.tar").read_bytes())
    content[700] ^= 1
    (folder / "train-000001.tar").write_bytes(content)


def change_label(folder: Path) -> None:
    table = np.load(folder / "train.index.npy")
    table[2, 3] = 99
    np.save(folder / "train.index.npy", table)


FAULTS = {
    "nothing": (lambda folder: None, []),
    "a flipped bit": (damage_bytes, ["train-000001.tar: its checksum is not that of index.json"]),
    "cut off": (
        lambda folder: os.truncate(folder / "train-000001.tar", 3000),
        ["train-000001.tar: 3000 bytes, index.json says", "broken shard"],
    ),
    "missing": (lambda folder: (folder / "val-000000.tar").unlink(), ["val-000000.tar: is missing"]),
    "unknown": (
        lambda folder: write_split(folder, "train", [2] * 4),
        ["train-000003.tar: index.json does not have it"],
    ),
    "another table": (change_label, ["train.index.npy: does not fit index.json (its checksum is another one)"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_finds_what_is_off(tmp_path, capsys, fault):
    write_split(tmp_path, "train", [4, 4, 4])
    write_split(tmp_path, "val", [3])
    shards("index", tmp_path)
    change, expected = FAULTS[fault]
    change(tmp_path)
    capsys.readouterr()
    assert shards("verify", tmp_path, "--workers", 1) == (1 if expected else 0)
    printed = capsys.readouterr().out
    assert all(message in printed for message in expected), printed


def test_verify_decodes_every_image_and_checks_labels_without_an_index_too(tmp_path, capsys):
    good = jpeg(0)
    files = [("a.jpg", good), ("a.cls", b"0"), ("b.jpg", good[:300]), ("b.cls", b"1"), ("c.jpg", good), ("c.cls", b"7")]
    write_tar(tmp_path / "val-000000.tar", files)
    assert shards("verify", tmp_path, "--classes", 5) == 1
    printed = capsys.readouterr().out
    assert "sample 'b': broken image" in printed
    assert "sample 'c': label 7 is outside 0..4" in printed
    assert "1 shards, 1 good samples, 2 problems" in printed
    assert shards("verify", tmp_path, "--max-pixels", 100) == 1
    assert "1600" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["no json", "other format", "path trick", "size", "missing key"])
def test_a_broken_index_is_one_line(tmp_path, change):
    write_split(tmp_path, "val", [4])
    shards("index", tmp_path)
    path = tmp_path / "index.json"
    content = json.loads(path.read_text())
    if change == "other format":
        content["version"] = 9
    elif change == "path trick":
        content["splits"]["val"]["shards"][0]["name"] = "../val-000000.tar"
    elif change == "size":
        content["splits"]["val"]["shards"][0]["bytes"] -= 1
    elif change == "missing key":
        del content["splits"]["val"]["shards"][0]["sha256"]
    path.write_text("{" if change == "no json" else json.dumps(content))
    with pytest.raises(DataError, match=r"index|val-000000.tar") as raised:
        open_split(config(tmp_path), "val")
    assert "\n" not in str(raised.value)


def test_real_photos_are_verified(real_data, capsys):
    assert shards("verify", real_data / "imagenet1k-sample", "--classes", 1000) == 0
    assert "2 shards, 500 good samples, 0 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train"], "holds its splits itself; leave out --split train"),
        (["--split", "val"], "holds its splits itself; leave out --split val"),
        (["--val-labels", "nowhere"], "--val-labels nowhere: for ILSVRC2012_img_val.tar alone"),
        (["--shard-mb", "nan"], "--shard-mb nan: expected more than 0"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(source, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        shards("create", source, tmp_path / "shards", *options)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_more_processes_than_shards_are_not_started(source, tmp_path, capsys):
    shards("create", source, tmp_path / "shards", "--workers", "100000")
    assert shards("verify", tmp_path / "shards", "--workers", "100000") == 0
    assert shards("index", tmp_path / "shards", "--workers", "100000") == 0


def test_the_same_command_that_was_faster_elsewhere_is_no_error(source, tmp_path, monkeypatch):
    images, target, write = find_images(source), tmp_path / "shards", creating._write_missing

    def create():
        creating.create(images, target, seed=0, shard_bytes=10**6, workers=1)

    def faster(*arguments):
        monkeypatch.setattr(creating, "_write_missing", write)
        create()

    monkeypatch.setattr(creating, "_write_missing", faster)
    create()
    assert shards("verify", target) == 0


def test_what_is_no_photo_is_counted_and_named(source, tmp_path, capsys):
    cat = source / "train" / "cat"
    (source / "train" / "yak").mkdir()
    (cat / "gone.png").symlink_to(tmp_path / "nowhere")
    (cat / "clip.mp4").write_text("x")
    (source / "train" / "loose.png").write_bytes(b"")
    assert shards("create", source, tmp_path / "shards") == 0
    printed = capsys.readouterr().out
    for note in ("1 .txt (such as", "1 .mp4", "1 links that lead nowhere", "1 files in no class folder", "photos: yak"):
        assert note in printed


def test_photos_of_every_kind_and_linked_ones_are_taken_in(tmp_path, capsys):
    ant = tmp_path / "source" / "train" / "ant"
    (tmp_path / "elsewhere").mkdir(parents=True)
    ant.mkdir(parents=True)
    for name in ("a.JPEG", "b.WebP", "c.tif"):
        (ant / name).write_bytes(png(numbered_image(1)))
    (tmp_path / "elsewhere" / "d.gif").write_bytes(png(numbered_image(1)))
    (ant / "more").symlink_to(tmp_path / "elsewhere")
    (ant / "e.png").symlink_to(tmp_path / "elsewhere" / "d.gif")
    assert shards("create", tmp_path / "source", tmp_path / "shards") == 0
    assert "left out" not in capsys.readouterr().out
    assert len(open_split(config(tmp_path / "shards", num_classes=1), "train")) == 5


def test_hidden_folders_and_files_of_systems_shift_no_label(source, tmp_path):
    expected = find_images(source)
    for name in (".ipynb_checkpoints", "._cat", "@eaDir", "__MACOSX"):
        (source / "train" / name).mkdir()
        (source / name).mkdir()
    (source / "train" / "cat" / "._image.0.PNG").write_bytes(b"resource fork")
    assert find_images(source) == expected


def test_a_second_split_joins_as_if_both_had_come_at_once(source, tmp_path, capsys):
    whole, joined = tmp_path / "whole", tmp_path / "joined"
    shards("create", source, whole)
    for _ in range(2):  # and again finds all of it there
        for split in ("train", "val"):
            shards("create", source / split, joined, "--split", split)
    assert capsys.readouterr().out.count("finished") == 2
    assert {p.name: p.read_bytes() for p in joined.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_a_split_of_other_classes_joins_no_shards(source, tmp_path, capsys):
    shards("create", source / "train", tmp_path / "shards", "--split", "train")
    shards("create", source / "val", tmp_path / "other", "--split", "val")
    write_folders(source / "val", {"dog": 1})
    with pytest.raises(SystemExit):
        shards("create", source / "val", tmp_path / "shards", "--split", "val")
    assert "val/dog: the shards there have no such class" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # train would give bee and cat other labels
        shards("create", source / "train", tmp_path / "other", "--split", "train")
    assert "train/ant: the shards there have no such class" in capsys.readouterr().err


def test_a_join_that_was_killed_goes_on(source, tmp_path, monkeypatch):
    target, write = tmp_path / "shards", creating.write_index
    shards("create", source / "train", target, "--split", "train")

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(creating, "write_index", killed)
    with pytest.raises(SystemExit):
        shards("create", source / "val", target, "--split", "val")
    assert len(open_split(config(target), "train")) == 42
    monkeypatch.setattr(creating, "write_index", write)
    shards("create", source / "val", target, "--split", "val")
    assert len(open_split(config(target), "val")) == 5


def test_a_class_may_be_called_like_a_split(tmp_path):
    write_folders(tmp_path / "source", {"train": 2, "bus": 1})
    assert find_images(tmp_path / "source", "train").classes == ("bus", "train")
    write_folders(tmp_path / "other" / "train", {"bus": 1})
    with pytest.raises(DataError, match=r"other: holds its splits itself; leave out --split val"):
        find_images(tmp_path / "other", "val")
