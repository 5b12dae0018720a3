"""What a user gives wrongly to a verb of the library is one IntVitError in one line: what was given, what is expected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intvit
from intvit.errors import IntVitError

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
