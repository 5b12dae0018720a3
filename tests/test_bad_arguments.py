"""A wrong argument of a verb is one IntVitError in one line: its name, what was given, what is expected."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intvit
from intvit.commands import main
from intvit.errors import IntVitError
from intvit.torchvision_fix import ensure_torchvision

ensure_torchvision()
import timm  # noqa: E402

SIZE: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_classes": 4, "depth": 1, "width": 8, "heads": 1}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
LABELS = np.arange(4)


def small() -> Any:
    torch.manual_seed(0)
    return intvit.create_model("deit_t", **SIZE)


@pytest.fixture(scope="module")
def model() -> Any:
    return intvit.calibrate(small(), IMAGES)


@pytest.fixture(scope="module")
def program(model: Any) -> intvit.Program:
    return intvit.export(model)


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("arguments") / "integer"
    intvit.export(model, place)
    return place


def refused(call: Any, message: str) -> None:
    with pytest.raises(IntVitError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0, -1, float("nan"), True, "24", 24.0])
def test_a_width_that_is_none_proves_nothing(program: intvit.Program, width: Any) -> None:
    refused(lambda: intvit.certify(program, width), f"accumulator={width!r}: expected a whole number of at least 1")


def test_an_accumulator_of_one_bit_is_not_enough_and_of_numpy_s_type_is_one(program: intvit.Program) -> None:
    assert not intvit.certify(program, 1).enough
    assert intvit.certify(program, np.int64(32)).enough


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (None, {}, "the source is None, neither a program nor the folder of one"),
        (torch.nn.Identity(), {}, "the source is of type Identity"),
        (..., {"threads": "2"}, "threads='2': expected a whole number from 1 to 1024"),
        (..., {"threads": 0}, "threads=0: expected a whole number from 1 to 1024"),
        (..., {"threads": 1025}, "threads=1025: expected a whole number from 1 to 1024"),
        (..., {"runtime": "numpy", "threads": 2}, "runtime 'numpy' takes no threads"),
        (..., {"runtime": ["numpy"]}, "unknown runtime ['numpy']"),
    ],
)
def test_loading_names_the_argument(program: intvit.Program, source: Any, options: Any, message: str) -> None:
    source = program if source is ... else source
    refused(lambda: intvit.load(source, **options), message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.jpg", "images='photo.jpg': expected a list of files, such as ['photo.jpg']"),
        (None, "images are None; expected files, or uint8 pixels"),
        ([3], "images[0] is 3; expected a path"),
        ([Path(__file__).parent], "a folder, not a file; give .npy files of uint8 pixels, or photos"),
        (IMAGES[:0], "images have shape [0, 3, 8, 8]"),
        (IMAGES.astype(np.float32), "images are of type float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), "images is an array of torch.bfloat16"),
    ],
)
def test_images_of_a_program_are_checked_at_the_call(folder: Path, tmp_path: Path, images: Any, message: str) -> None:
    refused(lambda: intvit.run(folder, images, runtime="numpy"), message)
    if not (isinstance(images, np.ndarray) and not len(images)):
        refused(lambda: intvit.certify(folder, images=images), message)
    refused(lambda: intvit.golden(folder, images, tmp_path / "out"), message)


def test_images_of_torch_are_those_of_numpy(folder: Path) -> None:
    given = torch.from_numpy(IMAGES)
    assert list(intvit.run(folder, given, runtime="numpy")) == list(intvit.run(folder, IMAGES, runtime="numpy"))
    assert intvit.certify(folder, images=given).rows == intvit.certify(folder, images=IMAGES).rows


def test_golden_and_run_name_the_argument(folder: Path, tmp_path: Path) -> None:
    refused(lambda: intvit.golden(folder, IMAGES, None), "out is None; expected a path")
    refused(lambda: intvit.golden(folder, IMAGES, tmp_path / "o", values="head"), "expected a list of names")
    refused(lambda: intvit.golden(3, IMAGES, tmp_path / "o"), "folder is 3; expected a path")
    refused(lambda: intvit.run(folder, IMAGES, top=0), "top=0: expected a whole number of at least 1")


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGES[:0], {}, "images are torch.uint8 (0, 3, 8, 8); the model takes torch.uint8 (B, 3, 8, 8)"),
        (None, {}, "images are None; expected uint8 (N, C, H, W)"),
        (3, {}, "images are 3; expected uint8"),
        (torch.tensor(3), {}, "images are an array of torch.int64 ()"),
        ([{"image": IMAGES}], {}, "batch 0 is of type dict; expected uint8 (B, C, H, W), alone or first of a tuple"),
        (np.array([["a"]]), {}, "images are an array of <U1 (1, 1)"),
        (IMAGES, {"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
    ],
)
def test_calibration_names_the_argument(images: Any, options: Any, message: str) -> None:
    refused(lambda: intvit.calibrate(small(), images, **options), message)


def test_calibration_takes_arrays_of_any_strides_as_runtimes_do() -> None:
    states = [intvit.calibrate(small(), given).state_dict() for given in (IMAGES[::-1], IMAGES[::-1].copy())]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("images", [IMAGES, None])
def test_a_model_takes_tensors(model: Any, images: Any) -> None:
    refused(
        lambda: model(images), "the model takes a tensor torch.uint8 (B, 3, 8, 8), such as torch.from_numpy(images)"
    )
    refused(lambda: model.integer_scores(images), "the model takes a tensor")


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES, LABELS.astype(float), {}, "labels are an array of float64 (4,); expected integers of shape (4,)"),
        (IMAGES, LABELS > 1, {}, "labels are an array of bool (4,)"),
        (IMAGES, ["a", "b", "c", "d"], {}, "labels are an array of <U1 (4,)"),
        (IMAGES, LABELS[:, None], {}, "labels are an array of int64 (4, 1)"),
        (IMAGES, 3, {}, "4 images with 1 labels"),
        (IMAGES[:1], 3, {}, "labels are an array of int64 (); expected integers of shape (1,)"),
        (IMAGES, None, {}, "4 images with 0 labels"),
        (IMAGES, LABELS - 1, {}, "label -1 in the data"),
        (IMAGES, LABELS, {"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
        (IMAGES, LABELS, {"batch_size": -1}, "batch_size=-1: expected"),
        (list(IMAGES), None, {}, "batch 0 is an array of uint8 (3, 8, 8); expected a pair (images, labels)"),
        (None, None, {}, "images are None; expected uint8 (N, C, H, W), or a loader of pairs"),
        (IMAGES, LABELS, {"runtimes": "numpy"}, "runtimes='numpy': expected a list with at least one name"),
        (IMAGES, LABELS, {"runtimes": []}, "runtimes=[]: expected a list"),
    ],
)
def test_evaluation_names_the_argument(program: Any, images: Any, labels: Any, options: Any, message: str) -> None:
    refused(lambda: intvit.evaluate(program, images, labels, **{"runtimes": ["numpy"], **options}), message)


def test_evaluation_takes_arrays_of_any_strides(program: Any) -> None:
    figures = [intvit.evaluate(program, IMAGES[::step], LABELS[::step], runtimes=["numpy"]) for step in (1, -1)]
    assert figures[0]["runtimes"]["numpy"]["top1"] == figures[1]["runtimes"]["numpy"]["top1"]


def test_evaluation_works_under_autocast(model: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert intvit.evaluate(model, IMAGES, LABELS, runtimes=["numpy"])["runtimes"]["numpy"]["mismatches"] == 0


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (range(4), "classes[0] is 0; expected a text"),
        ("abcd", "classes are 'abcd'; expected a list of names"),
        (3, "classes are 3; expected a list"),
        (np.array(["a", "b"]), "2 names of classes for 4 scores"),
    ],
)
def test_names_of_classes_are_texts(model: Any, classes: Any, message: str) -> None:
    refused(lambda: intvit.export(model, classes=classes), message)


def test_export_takes_names_of_numpy_and_refuses_a_place_inside_a_file(model: Any, tmp_path: Path) -> None:
    assert intvit.export(model, classes=np.array(list("abcd"))).classes == list("abcd")
    (tmp_path / "file").touch()
    refused(lambda: intvit.export(model, tmp_path / "file" / "x"), "file is a file;")
    refused(lambda: intvit.export(model, provenance=3), "provenance is 3; expected a mapping")
    refused(lambda: intvit.calibrate(None, IMAGES), "NoneType is not a model of intvit")
    refused(lambda: intvit.export(model, 3), "folder is 3; expected a path")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({key: 0}, f"{key}=0: expected a whole number of at least 1")
            for key in (*SIZE, "patch")
            if key != "num_classes"
        ],
        ({"mlp_ratio": 0}, "mlp_ratio=0: expected a number above 0"),
        *[({key: "8"}, f"{key}='8': expected a whole number") for key in SIZE],
        *[({key: -8}, f"{key}=-8: expected a whole number") for key in SIZE],
        ({"image_size": True}, "image_size=True: expected a whole number"),
        ({"image_size": (8, 8, 3)}, "image_size=(8, 8, 3): expected a whole number, or (height, width)"),
        ({"image_size": (8, 0)}, "image_size[1]=0: expected a whole number of at least 1"),
        ({"distilled": 1}, "distilled=1: expected True or False"),
        ({"dept": 1}, "dept: not a part of deit_t; did you mean depth?"),
        ({"imagesize": 8}, "imagesize: not a part of deit_t; did you mean image_size?"),
        ({"quant": None}, "quant is None; expected a preset"),
        ({"quant": {}}, "quant is of type dict; expected a preset"),
        ({"mean": 0.5}, "mean is 0.5; expected a number for each channel"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean=(123.7, 116.3, 103.5): expected a number from 0 to 1"),
        ({"std": (0.5, 0.5, 0.0)}, "std=(0.5, 0.5, 0.0): expected a number above 0, at most 1"),
        ({"std": (0.5, 0.5, float("nan"))}, "std=(0.5, 0.5, nan): expected a number above 0"),
        ({"std": (0.5,)}, "mean has 3 channels, std 1"),
        ({"drop_path": 1}, "drop_path=1: expected a number from 0 to below 1"),
        ({"drop_path": "a"}, "drop_path='a': expected"),
        ({"weights": 3}, "weights is 3; expected a path"),
    ],
)
def test_a_model_s_size_makes_sense(options: dict[str, Any], message: str) -> None:
    refused(lambda: intvit.create_model("deit_t", **{**SIZE, **options}), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 0)}, "depths[1]=0: expected a whole number of at least 1"),
        ({"depths": 2}, "depths=2: expected a whole number for each stage"),
        ({"depths": (1, 1)}, "depths=(1, 1) and heads=(3, 6, 12, 24): give one of each"),
    ],
)
def test_stages_make_sense(options: dict[str, Any], message: str) -> None:
    refused(lambda: intvit.create_model("swin_t", image_size=32, num_classes=4, **options), message)


def vit(depth: int = 1, **options: Any) -> Any:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=depth, num_classes=3, **options)


def swin(**options: Any) -> Any:
    small = {"depths": (1, 1), "num_heads": (3, 6), "num_classes": 3, **options}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=32, **small)


def replaced(model: Any, place: str, layer: torch.nn.Module) -> Any:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
    return model


def weight_normed(model: Any) -> Any:
    torch.nn.utils.parametrizations.weight_norm(model.head)
    return model


@pytest.mark.parametrize(
    ("make", "feature"),
    [
        (lambda: vit(0), "no blocks"),
        (lambda: replaced(vit(), "norm", torch.nn.RMSNorm(192)), "RMSNorm"),
        (lambda: replaced(vit(), "head", torch.nn.Linear(192, 3, bias=False)), "head without bias"),
        (lambda: replaced(vit(), "patch_embed.proj", torch.nn.Conv2d(3, 192, 16, 16, bias=False)), "proj without bias"),
        (lambda: replaced(vit(), "norm", torch.nn.LayerNorm(192, 1e-6, bias=False)), "norm without bias"),
        (lambda: replaced(vit(), "norm", torch.nn.LayerNorm(192, 1e-6, False)), "norm without bias and weight"),
        (lambda: weight_normed(vit()), "a weight made of other parameters (head)"),
        (lambda: replaced(vit(), "head", torch.nn.Sequential(torch.nn.Linear(192, 3))), "not one linear layer"),
        (lambda: replaced(swin(), "head", torch.nn.Linear(192, 3)), "the head Linear instead of timm's ClassifierHead"),
    ],
)
def test_what_ours_do_not_compute_is_refused_by_name(make: Any, feature: str) -> None:
    refused(lambda: intvit.quantize(make()), feature)


def test_what_all_blocks_lack_is_named_once() -> None:
    refused(
        lambda: intvit.quantize(swin(qkv_bias=False)),
        "SwinTransformer with layers.0.blocks.0.attn.qkv without bias: not among what intvit computes",
    )


@pytest.mark.parametrize(("make", "head"), [(vit, "head"), (swin, "head.fc")])
def test_a_replaced_classifier_gives_the_classes(make: Any, head: str) -> None:
    model = intvit.quantize(replaced(make(), head, torch.nn.Linear(192, 5)))
    assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 5)


def test_normalization_is_taken_from_arrays_and_refused_in_other_units() -> None:
    for values in (np.full(3, 0.5), torch.full((3,), 0.5), [0.5] * 3):
        assert intvit.quantize(vit(), mean=values, std=values).input.mean.tolist() == [0.5] * 3
    for options, message in [
        ({"mean": 0.5}, "mean is 0.5; expected a number for each channel"),
        ({"mean": (124, 116, 104)}, "mean=(124.0, 116.0, 104.0): expected a number from 0 to 1"),
        ({"std": (58, 57, 57)}, "std=(58.0, 57.0, 57.0): expected a number above 0, at most 1"),
        ({"std": (0.5, 0.5, 0)}, "std=(0.5, 0.5, 0.0): expected a number above 0"),
        ({"std": (0.5, 0.5, -1)}, "std=(0.5, 0.5, -1.0): expected a number above 0"),
        ({"quant": None}, "quant is None"),
    ]:
        refused(lambda options=options: intvit.quantize(vit(), **options), message)


@pytest.mark.parametrize("command", [["analyze", "model"], ["search"]])
@pytest.mark.parametrize("given", ["nope", "nope.pth", "."])
def test_commands_name_the_checkpoint_as_it_was_typed(
    command: list[str],
    given: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--budget", "no16"] if command == ["search"] else []
    calibration = ["--calibration", "x", *(["--data", "x"] if command == ["analyze", "model"] else [])]
    with pytest.raises(SystemExit):
        main([*command, given, "--out", "out", *more, *calibration])
    said = "holds no config.yaml" if given == "." else "no such run folder, .ckpt or weights file"
    assert re.search(rf"^error: {re.escape(given)}:? {said}", capsys.readouterr().err, re.M)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bench", "runtime", "--threads", "100000"], "argument --threads: 100000: expected at most"),
        (["bench", "train", "--threads", "0"], "argument --threads: 0: expected a number of at least 1"),
        (["sweep", ""], "argument name: '': expected a name, without /"),
        (["sweep", "a/b"], "argument name: 'a/b': expected a name, without /"),
    ],
)
def test_arguments_that_no_machine_or_folder_can_have_are_refused(
    command: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(command)
    assert message in capsys.readouterr().err


def test_an_option_of_weights_files_is_refused_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config.yaml").touch()
    for option in (["--quant", "lut8"], ["--model", "deit_t"]):
        with pytest.raises(SystemExit):
            main(["analyze", "model", str(tmp_path), "--out", str(tmp_path / "out"), *option])
        assert f"error: {option[0]} is for a weights file; {tmp_path} is a run" in capsys.readouterr().err
