"""Labels of shards as others write them: numbers, names of classes, fields of .json, folders; packed tars; patterns."""

import gzip
import io
import json

import pytest
from PIL import Image

from intvit.commands import main
from intvit.config.presets import compose_group
from intvit.data.classes import class_names
from intvit.data.config import DataError
from intvit.data.loading import train_loader, validation_loader
from intvit.data.shards import open_split
from tests.support.synthetic_shards import config, number_of, numbered_image, png, write_split, write_tar

NAMES = ["cat", "ant", "bee, small", "cat", "ant"]  # of samples 0 to 4; their order is that of no alphabet
LABELS = [2, 0, 1, 2, 0]


def write(root, label, split="train", key="s{number}"):
    """A shard of five samples; label: number of a sample -> the files that hold its label."""
    files = []
    for number in range(5):
        name = key.format(number=number, name=NAMES[number])
        files.append((f"{name}.png", png(numbered_image(number))))
        files += [(f"{name}.{suffix}", content) for suffix, content in label(number).items()]
    write_tar(root / f"{split}-000000.tar", files)


def as_json(**fields) -> bytes:
    return json.dumps(fields).encode()


KINDS = {
    "a number in .cls": (lambda n: {"cls": f"{LABELS[n]}\r\n".encode(), "txt": b"a caption"}, {}),
    "a number in .txt": (lambda n: {"txt": f"{LABELS[n]}\n".encode()}, {}),
    "a name in .txt": (lambda n: {"txt": f"{NAMES[n]}\n".encode()}, {}),
    "a name with a mark": (lambda n: {"txt": f"\ufeff{NAMES[n]}\r\n".encode()}, {}),
    "a number in .json": (lambda n: {"json": as_json(label=LABELS[n]), "cls": b"4"}, {"label_field": "label"}),
    "a name in .json": (lambda n: {"json": as_json(label=9, name=NAMES[n])}, {"label_field": "name"}),
    "a folder": (lambda n: {}, {}),
}


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_read_wherever_they_stand(tmp_path, kind, indexed):
    label, options = KINDS[kind]
    for split in ("train", "val"):
        write(tmp_path, label, split, key="{name}/s{number}" if kind == "a folder" else "s{number}")
    data = config(tmp_path, num_classes=3, class_names="index", **options)
    if indexed:
        field = ["--label-field", options["label_field"]] if options else []
        assert main(["shards", "index", str(tmp_path), *field]) == 0
        assert main(["shards", "verify", str(tmp_path), *field]) == 0
    for split in ("train", "val"):
        assert open_split(data, split).labels.tolist() == LABELS
    if "name" in kind or kind == "a folder":
        assert class_names(data) == ["ant", "bee, small", "cat"]


def test_validation_takes_the_classes_of_training(tmp_path):
    write(tmp_path, lambda n: {"txt": NAMES[n].encode()})
    files = [("a.png", png(numbered_image(0))), ("a.txt", b"cat")]
    write_tar(tmp_path / "val-000000.tar", files)
    assert open_split(config(tmp_path, num_classes=3), "val").labels.tolist() == [2]
    write_tar(tmp_path / "val-000000.tar", [*files, ("b.png", png(numbered_image(0))), ("b.txt", b"dog")])
    with pytest.raises(DataError, match=r"val has the class 'dog', which train has not"):
        open_split(config(tmp_path, num_classes=3), "val")


def test_wordnet_ids_are_imagenets_labels_in_texts_folders_and_indexes(tmp_path, capsys):
    ids = {"n03000684": 491, "n02102040": 217}
    for number, wnid in enumerate(ids):
        (tmp_path / "photos" / "val" / wnid).mkdir(parents=True)
        (tmp_path / "photos" / "val" / wnid / "x.png").write_bytes(png(numbered_image(number)))
        image = [(f"{wnid}/{number}.png", png(numbered_image(number)))]
        write_tar(tmp_path / "folders" / f"val-00000{number}.tar", image)
        write_tar(tmp_path / "texts" / f"val-00000{number}.tar", [*image, (f"{wnid}/{number}.txt", wnid.encode())])
    main(["shards", "create", str(tmp_path / "photos"), str(tmp_path / "created")])
    imagenet = {"num_classes": 1000, "class_names": "imagenet"}
    for root in ("folders", "texts", "created"):
        loader = validation_loader(config(tmp_path / root, **imagenet))
        found = {number_of(i): label for images, labels in loader for i, label in zip(images, labels, strict=True)}
        assert found == dict(enumerate(ids.values())), root


def test_classes_that_imagenet_has_not_are_refused_under_its_name(tmp_path, capsys):
    (tmp_path / "photos" / "val" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "val" / "cat" / "x.png").write_bytes(png(numbered_image(0)))
    main(["shards", "create", str(tmp_path / "photos"), str(tmp_path / "created")])
    with pytest.raises(DataError, match=r"index.json: class 'cat' is no WordNet id of ImageNet, .*class_names=index"):
        open_split(config(tmp_path / "created", num_classes=1000, class_names="imagenet"), "val")


MISTAKES = {
    "no field": (lambda n: {"json": as_json(name="x")}, {"label_field": "label"}, r"no field label; it has name; say"),
    "no .json": (
        lambda n: {"cls": b"0"},
        {"label_field": "label"},
        r"has no .json, only .png, .cls, and data.label_",
    ),
    "broken .json": (lambda n: {"json": b"{"}, {"label_field": "label"}, r"its .json cannot be read"),
    "neither": (lambda n: {"json": as_json(label=[1])}, {"label_field": "label"}, r"label=\[1\], neither a number nor"),
    "a field unsaid": (lambda n: {"json": as_json(label=1)}, {}, r"only .png, .json; .*say data.label_field=NAME"),
    "a story": (lambda n: {"txt": b"two\nlines"}, {}, r"its .txt is 'two.nlines', neither a number nor the name"),
    "other count": (lambda n: {"txt": NAMES[n].encode()}, {"num_classes": 4}, r"name 3 classes \(ant, ...\), data.num"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_label_that_is_none_is_named_with_the_way_out(tmp_path, mistake):
    label, options, message = MISTAKES[mistake]
    write(tmp_path, label)
    with pytest.raises(DataError, match=message) as raised:
        open_split(config(tmp_path, **options), "train")
    assert "\n" not in str(raised.value)


def test_a_sample_that_lost_its_number_does_not_take_the_name_of_its_folder(tmp_path):
    write(tmp_path, lambda n: {} if n == 3 else {"cls": b"1"}, key="{name}/s{number}")
    with pytest.raises(DataError, match=r"sample 'cat/s3': has no number for its label, as others have, but the class"):
        open_split(config(tmp_path), "train")
    index = open_split(config(tmp_path, on_bad_sample="skip"), "train")
    assert (index.labels.tolist(), len(index.bad)) == ([1] * 4, 1)


def test_other_names_of_shards_are_globs(tmp_path):
    write_split(tmp_path, "train", [3])
    write_split(tmp_path, "val", [2])
    (tmp_path / "train-000000.tar").rename(tmp_path / "pets_a.tar")
    (tmp_path / "held").mkdir()
    (tmp_path / "val-000000.tar").rename(tmp_path / "held" / "out.tar")
    data = config(tmp_path, train_pattern="pets_*.tar", val_pattern="held/*.tar", cache=str(tmp_path / "cache"))
    assert [len(open_split(data, split)) for split in ("train", "val")] == [3, 2]
    assert sum(len(images) for images, _ in validation_loader(data)) == 2
    with pytest.raises(DataError, match=r"no train-\*.tar and no val-\*.tar; it holds pets_a.tar: say data.train_"):
        open_split(config(tmp_path), "val")
    with pytest.raises(DataError, match=r"pets_a.tar matches data.train_pattern=\*.tar and data.val_pattern=pets_a"):
        open_split(config(tmp_path, train_pattern="*.tar", val_pattern="pets_a.tar"), "val")


def test_hugging_faces_shards_are_a_preset(tmp_path):
    for name, label in (("imagenet1k-train-0000", 7), ("imagenet1k-validation-00", 999)):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (label % 256, 0, 0)).save(buffer, "WEBP" if label == 7 else "JPEG")
        key = f"n01440764_{label}"
        suffix = "webp" if label == 7 else "jpg"
        files = {suffix: buffer.getvalue(), "cls": b"%d" % label, "json": as_json(label=1)}
        write_tar(tmp_path / f"{name}.tar", [(f"{key}.{ending}", content) for ending, content in files.items()])
    preset = compose_group(["+data=hf"], "data")
    keys = ("train_pattern", "val_pattern", "class_names", "num_classes")
    data = config(tmp_path, **{key: preset[key] for key in keys})
    assert [open_split(data, split).labels.tolist() for split in ("train", "val")] == [[7], [999]]
    with pytest.raises(DataError, match=r"Hugging Face's shards are read with data=hf"):
        open_split(config(tmp_path), "val")


@pytest.mark.parametrize("cached", [False, True])
def test_packed_shards_are_unpacked_once(tmp_path, cached):
    for split, counts in (("train", [5, 4]), ("val", [3])):
        write_split(tmp_path / "plain", split, counts)
        write_split(tmp_path / "packed", split, counts)
    for path in (tmp_path / "packed").glob("*.tar"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    options = {"cache": str(tmp_path / "cache")} if cached else {}
    for make in (train_loader, validation_loader):
        expected, found = (
            [labels.tolist() for _, labels in make(config(tmp_path / name, **options))] for name in ("plain", "packed")
        )
        assert found == expected
    assert not list((tmp_path / "packed").glob("*.tar"))
    first = tmp_path / "packed" / "train-000000.tar.gz"
    first.write_bytes(first.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-000000.tar.gz: does not unpack \(.*\); write it again"):
        open_split(config(tmp_path / "packed", **options), "train")
    write_split(tmp_path / "packed", "train", [5])
    with pytest.raises(DataError, match=r"holds train-000000.tar and train-000000.tar.gz, one shard twice"):
        open_split(config(tmp_path / "packed"), "train")


def test_a_list_of_class_names_fits_its_labels(tmp_path, capsys):
    write_split(tmp_path, "val", [5])
    names = tmp_path / "names.txt"
    names.write_bytes(b"ant\r\nbee, small\r\ncat\r\ndog\r\neel\r\n")
    main(["shards", "index", str(tmp_path), "--class-names", str(names)])
    assert class_names(config(tmp_path, class_names="index")) == ["ant", "bee, small", "cat", "dog", "eel"]
    for text, message in ((b"ant\nbee\n", "names 2 classes, but a label is 4"), (b"ant\nant\n", "class 'ant' twice")):
        names.write_bytes(text)
        with pytest.raises(SystemExit):
            main(["shards", "index", str(tmp_path), "--class-names", str(names)])
        assert message in capsys.readouterr().err


def images(*names):
    return [(name, png(numbered_image(number))) for number, name in enumerate(names)]


def write_wordnet(root, keys, labels):
    numbers = [(f"{key}.cls", str(label).encode()) for key, label in zip(keys, labels, strict=True)]
    files = [file for pair in zip(images(*(f"{key}.png" for key in keys)), numbers, strict=True) for file in pair]
    write_tar(root / "train-000000.tar", files)
    return config(root, num_classes=1000, class_names="imagenet")


@pytest.mark.parametrize("indexed", [False, True])
def test_numbers_that_are_not_imagenets_of_the_folders_beside_them_are_refused(tmp_path, indexed):
    for labels in ([0, 1], [217, 491]):
        imagenet = write_wordnet(tmp_path, ["n02102040/a", "n03000684/a"], labels)
        if indexed:
            assert main(["shards", "index", str(tmp_path)]) == 0
        if labels == [217, 491]:
            assert open_split(imagenet, "train").labels.tolist() == labels
            continue
        with pytest.raises(DataError, match=r"is not that of n\d+ in ImageNet, which is (217|491); .*need no .cls"):
            open_split(imagenet, "train")
        assert open_split(config(tmp_path), "train").labels.tolist() == labels


def test_numbers_that_are_not_imagenets_of_the_files_names_are_said(tmp_path, caplog):
    imagenet = write_wordnet(tmp_path, ["n02102040_1", "n03000684_2"], [0, 491])
    assert open_split(imagenet, "train").labels.tolist() == [0, 491]
    assert "sample 'n02102040_1': label 0 is not that of n02102040 in ImageNet, which is 217" in caplog.text


def test_what_systems_leave_in_a_tar_is_no_class_and_no_photo(tmp_path):
    left = ["./cat/._a.png", "./.ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "./cat/.DS_Store", "@eaDir/a.png"]
    write_tar(tmp_path / "train-000000.tar", images(*left, "./cat/a.png", "./dog/a.png"))
    index = open_split(config(tmp_path, num_classes=2, class_names="index"), "train")
    assert index.classes == ("cat", "dog")
    assert index.labels.tolist() == [0, 1]


def test_numbers_of_one_split_and_names_of_the_other_are_refused(tmp_path):
    write_tar(tmp_path / "train-000000.tar", images("cat/a.png", "dog/a.png"))
    write_tar(tmp_path / "val-000000.tar", [*images("a.png"), ("a.cls", b"1")])
    with pytest.raises(DataError, match=r"labels of val are numbers, those of train are names, such as 'cat'"):
        open_split(config(tmp_path, num_classes=2), "val")


@pytest.mark.parametrize("pattern", ["", "/shards/train-*.tar", "train/"])
def test_a_pattern_that_is_no_glob_below_the_root_is_refused(tmp_path, pattern):
    with pytest.raises(
        DataError, match=r"data.train_pattern=.*: expected a glob below data.root, such as train-\*.tar"
    ):
        config(tmp_path, train_pattern=pattern)


def test_a_name_that_python_takes_for_a_number_is_a_name(tmp_path):
    one, other = images("a.png", "b.png")
    write_tar(tmp_path / "train-000000.tar", [one, ("a.txt", b"1_0"), other, ("b.txt", b"1_1")])
    index = open_split(config(tmp_path, num_classes=2, class_names="index"), "train")
    assert (index.classes, index.labels.tolist()) == (("1_0", "1_1"), [0, 1])
