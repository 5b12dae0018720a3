"""`intvit certify`: the table, the answer on narrower accumulators, observed ranges, and a user's mistakes."""

from pathlib import Path

import numpy as np
import pytest
from tests.program.random_programs import images_for, random_program

from intvit.analysis.certify import observe
from intvit.cli import main
from intvit.program import bounds, load_checkpoint, save_checkpoint


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


def test_wrong_images_are_named(folder: Path, tmp_path: Path, capsys) -> None:
    for name, content, message in [
        ("missing.npy", None, "no such file"),
        ("text.npy", b"no array", "text.npy: "),
        ("photo.jpg", b"no photo", "photo.jpg: cannot identify image file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit):
            main(["certify", str(folder), "--images", str(tmp_path / name)])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
