"""`intvit certify`: the table, the answer on narrower accumulators, observed ranges, and a user's mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intvit.commands import main
from intvit.program import bounds, load_checkpoint, save_checkpoint
from intvit.runtime.images import read_images
from intvit.runtime.observed import observe
from tests.support.random_programs import images_for, random_program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(random_program(4), tmp_path / "integer")
    return tmp_path / "integer"


def test_an_accumulator_is_enough_exactly_from_the_widest_sum_on(folder: Path, capsys) -> None:
    sums = [entry.accumulator for entry in bounds(load_checkpoint(folder)).values() if entry.accumulator]
    needed = max(seen.bits for seen in sums)
    assert main(["certify", str(folder), "--accumulator", str(needed)]) == 0
    assert f"enough for {len(sums)} of {len(sums)} sums" in capsys.readouterr().out
    assert main(["certify", str(folder), "--accumulator", str(needed - 1)]) == 1
    listed = [line for line in capsys.readouterr().out.splitlines() if f"and needs {needed} bits" in line]
    assert len(listed) == sum(seen.bits == needed for seen in sums)


def test_the_table_shows_every_computing_operator_and_what_images_reached(folder: Path, tmp_path: Path, capsys) -> None:
    program = load_checkpoint(folder)
    images = images_for(program, 3)
    np.save(tmp_path / "images.npy", images)
    assert main(["certify", str(folder), "--every", "--images", str(tmp_path / "images.npy")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    reached = observe(program, images)
    for name, entry in bounds(program).items():
        assert (name in lines) == bool(entry.intermediates)
        if entry.intermediates:
            assert f" {reached[name].low}..{reached[name].high} " in lines[name]
            assert entry.output.extremes()[0] <= reached[name].low


def test_photos_go_through_the_evaluation_transform_and_arrays_stay_as_they_are(tmp_path: Path) -> None:
    program = random_program(13)
    channels, size, _ = program.values["image"].shape
    color = np.array([10, 200, 30], np.uint8)
    Image.new("RGB", (3 * size, 2 * size), tuple(color.tolist())).save(tmp_path / "photo.png")
    pixels = images_for(program, 3)
    np.save(tmp_path / "many.npy", pixels)
    np.save(tmp_path / "one.npy", pixels[1])
    read = read_images(program, [str(tmp_path / name) for name in ("many.npy", "photo.png", "one.npy")])
    uniform = np.broadcast_to(color.reshape(channels, 1, 1), (1, channels, size, size))
    assert np.array_equal(read, np.concatenate([pixels, uniform, pixels[1:2]]))


def test_wrong_images_are_named(folder: Path, tmp_path: Path, capsys) -> None:
    for name, content, message in [
        ("missing.npy", None, "no such file"),
        ("text.npy", b"no array", "text.npy: "),
        ("photo.jpg", b"no photo", "photo.jpg: "),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit):
            main(["certify", str(folder), "--images", str(tmp_path / name)])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
