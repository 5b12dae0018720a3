"""`intvit run`: the evaluation transform without torch, the printed classes, and pictures that are none."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intvit.commands import main
from intvit.data.transforms import EvalTransform
from intvit.errors import IntVitError
from intvit.program import Program, save_checkpoint
from intvit.runtime import load
from intvit.runtime.classes import run
from intvit.runtime.images import read_images
from intvit.runtime.segments import class_colours, segment
from tests.support.programs import dense_program
from tests.support.random_programs import random_program


def program_for(height: int, width: int | None = None) -> Program:
    """A checked program of RGB images, squares where the width is not given."""
    for seed in range(200):
        program = random_program(seed)
        if program.values["image"].shape == (3, height, width or height):
            return program
    raise AssertionError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
@pytest.mark.parametrize(("crop", "interpolation"), [(0.875, "bicubic"), (1.0, "bilinear"), (0.9, "lanczos")])
def test_the_transform_is_that_of_evaluation(crop: float, interpolation: str, size, picture: Path) -> None:
    program = program_for(*size)
    program.provenance = {"config": {"data": {"crop_pct": crop, "interpolation": interpolation}}}
    for name, image in {"wide": Image.open(picture), "high": Image.open(picture).rotate(90, expand=True)}.items():
        image.save(path := picture.with_name(f"{name}.png"))
        expected = EvalTransform(size, crop, interpolation, max_pixels=10**6).of_image(image)
        assert np.array_equal(read_images(program, [path])[0], expected.numpy())


def test_the_five_best_classes_are_printed(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    program = program_for(8)
    save_checkpoint(program, tmp_path / "integer")
    assert main(["run", str(tmp_path / "integer"), str(picture), "--runtime", "numpy"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    scores = load(tmp_path / "integer", "numpy")(read_images(program, [picture]))[0]
    assert first == str(picture)
    assert [int(line.split()[0]) for line in lines] == sorted(scores.tolist(), reverse=True)[:5]


def test_neither_torch_nor_hydra_is_imported(picture: Path, tmp_path: Path) -> None:
    save_checkpoint(program_for(8), tmp_path / "integer")
    script = (
        "import sys\nfor name in ('torch', 'hydra', 'timm', 'pytorch_lightning'): sys.modules[name] = None\n"
        "from intvit.commands import main\n"
        f"main(['run', {str(tmp_path / 'integer')!r}, {str(picture)!r}, '--runtime', 'numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(picture))


def test_a_file_that_is_no_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(IntVitError, match=r"text.png: none of JPEG, PNG, WEBP, GIF, BMP, TIFF$"):
        read_images(program_for(8), [tmp_path / "text.png"])
    program = program_for(8)
    program.provenance = {"config": {"data": {"crop_pct": "half"}}}
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    with pytest.raises(IntVitError, match="no evaluation transform"):
        read_images(program, [tmp_path / "black.png"])


def test_a_broken_picture_does_not_stop_the_others(picture: Path, tmp_path: Path, capsys) -> None:
    save_checkpoint(program_for(8), tmp_path / "integer")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    np.save(tmp_path / "small.npy", np.zeros((3, 7, 8), np.uint8))
    broken = [str(tmp_path / name) for name in ("text.png", "half.png", "small.npy", "gone.png")]
    files = [broken[0], str(picture), *broken[1:], str(picture)]
    command = ["run", str(tmp_path / "integer"), *files, "--runtime", "numpy", "--json", str(tmp_path / "found.json")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if not line.startswith(" ")] == [str(picture)] * 2
    errors = said.err.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in errors] == broken
    entries = json.loads((tmp_path / "found.json").read_text())["images"]
    assert [entry["image"] for entry in entries] == files
    assert [f"error: {entry['error']}" for entry in entries if "error" in entry] == errors
    assert [len(entry["best"]) for entry in entries if "best" in entry] == [min(5, len(entries[1]["best"]))] * 2
    first = next(iter(run(tmp_path / "integer", files, runtime="numpy", skip_broken=True)))
    assert (first.best, first.error) == ([], entries[0]["error"])
    with pytest.raises(IntVitError, match=r"gone.png: no such file"):
        run(tmp_path / "integer", files, runtime="numpy")
    files.remove(broken[-1])
    with pytest.raises(IntVitError, match=r"text.png: none of"):
        list(run(tmp_path / "integer", files, runtime="numpy"))


def test_the_folder_of_a_run_is_told_from_the_checkpoint_in_it(picture: Path, tmp_path: Path) -> None:
    save_checkpoint(program_for(8), tmp_path / "integer")
    with pytest.raises(IntVitError, match=r"holds no program.json; .*; the folder integer in it is one"):
        run(tmp_path, [picture], runtime="numpy")


def test_every_image_of_an_array_is_shown_and_an_archive_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    program = program_for(4)
    save_checkpoint(program, tmp_path / "program")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "three.npy", images)
    assert main(["run", str(tmp_path / "program"), str(tmp_path / "three.npy"), "--runtime", "numpy"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if "three" in line] == [f"{tmp_path}/three.npy[{i}]" for i in range(3)]
    np.savez(tmp_path / "archive.npz", images)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(IntVitError, match=r"archive.npy: an archive of arrays; save one"):
        read_images(program, [tmp_path / "archive.npy"])


def test_segmentation_names_what_is_no_photo_and_what_a_file_says_wrongly(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    program = dense_program(3, (2, 3), 4, ("upsample", "argmax"))
    program.provenance = {"config": {"data": {"fit": "sliding", "overlap": 0.5}}}
    Image.new("RGB", (60000, 1)).save(tmp_path / "line.png")
    save_checkpoint(program, tmp_path / "integer")
    files = [str(tmp_path), str(tmp_path / "gone.png"), str(picture)]
    command = ["run", str(tmp_path / "integer"), "--runtime", "numpy", "--out", str(tmp_path / "out")]
    assert main([*command, *files]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path}: Is a directory",
        f"error: {tmp_path / 'gone.png'}: No such file or directory",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("intvit.runtime.segments.MAX_PIXELS", 10**5)
        (refused,) = segment(program, [tmp_path / "line.png"], runtime="numpy", skip_broken=True)
    assert refused.error == f"{tmp_path / 'line.png'}: 120000 x 2 pixels once resized, more than max_pixels=100000"
    with pytest.raises(SystemExit):
        main([*command[:-1], str(picture), *files])
    assert f"{picture} is a file; expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [("palette", "x"), ("palette", [[1, 2]]), ("palette", [[1, 2, 256]]), ("overlap", 1), ("overlap", "half")],
)
def test_segmentation_refuses_a_palette_or_an_overlap_that_is_none(key: str, value: object, picture: Path) -> None:
    program = dense_program(3, (2, 3), 4, ("upsample", "argmax"))
    program.provenance = {"config": {"data": {"fit": "sliding", key: value}}}
    with pytest.raises(IntVitError, match=f"provenance: data.{key}"):
        [class_colours(program), *segment(program, [picture], runtime="numpy")]


def test_names_that_the_terminal_cannot_show_are_spelled_out(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(program_for(8), tmp_path / "integer")
    strange = picture.rename(picture.with_name("\N{CAT FACE}\udce9.png"))  # a byte that is no UTF-8
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO(), encoding="ascii"))
    assert main(["run", str(tmp_path / "integer"), str(strange), "--runtime", "numpy"]) == 0
    assert b"\\U0001f431\\udce9.png\n" in shown.getvalue()


def test_no_mask_is_written_over_one_of_the_images(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_checkpoint(dense_program(3, (2, 3), 4, ("upsample", "argmax")), tmp_path / "integer")
    command = ["run", "--runtime", "numpy", "--out", str(tmp_path), str(tmp_path / "integer"), str(picture)]
    assert main(command) == 0
    mask = tmp_path / "picture.mask.png"
    written = mask.read_bytes()
    with pytest.raises(SystemExit):
        main([*command, str(mask)])
    assert f"{mask} is one of the images, and would be written over" in capsys.readouterr().err
    assert mask.read_bytes() == written
