"""`intvit golden`: the vectors replay in an interpreter without the package, from the hex files alone."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.golden import golden, hex_words, write_golden
from intvit.program import Constant, save_checkpoint
from intvit.runtime import load_runtime
from tests.support.random_programs import images_for, random_program

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, seed: int, *options: str) -> Path:
    program = random_program(seed)
    save_checkpoint(program, tmp_path / "integer")
    np.save(tmp_path / "images.npy", images_for(program, 6, seed)[[2, 5]])
    images = ["--images", str(tmp_path / "images.npy")]
    assert not main(["golden", str(tmp_path / "integer"), *images, "--out", str(tmp_path / "golden"), *options])
    return tmp_path / "golden"


@pytest.mark.parametrize("seed", [3, 5, 14, 31])
def test_every_operator_replays_without_the_package(seed: int, tmp_path: Path) -> None:
    folder = written(tmp_path, seed)
    command = [sys.executable, "-m", "tests.support.replay_golden", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * len(random_program(seed).operators)


def test_a_changed_word_is_found(tmp_path: Path) -> None:
    from tests.support.replay_golden import replay

    folder = written(tmp_path, 1)
    entry = json.loads((folder / "manifest.json").read_text())["images"][1][-1]
    words = (folder / entry["hex"]).read_text().splitlines()
    words[0] = f"{int(words[0], 16) ^ 1:08x}"
    (folder / entry["hex"]).write_text("\n".join(words) + "\n")
    with pytest.raises(AssertionError):
        replay(folder)


def test_chosen_values_and_the_image_are_written_and_no_others(tmp_path: Path) -> None:
    folder = written(tmp_path, 2, "--values", "head", "*.add")
    program = random_program(2)
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = ["image", *(o.output for o in program.operators if o.output == "head" or o.output.endswith(".add"))]
    for entries in manifest["images"]:
        assert [entry["name"] for entry in entries] == expected
    trace = dict(load_runtime(program, "numpy").trace(images_for(program, 6, 2)[[2]]))
    head = manifest["images"][0][-1]
    assert (folder / head["hex"]).read_text().split() == [f"{v & 0xFFFFFFFF:08x}" for v in trace["head"][0].tolist()]


@pytest.mark.parametrize("bits", [1, 4, 5, 8, 12, 32, 53, 63, 64])
def test_words_are_twos_complement_of_their_width(bits: int) -> None:
    values = [0, 1, -1, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    digits = -(-bits // 4)
    words = hex_words(np.array([v for v in values if -(2**63) <= v < 2**63], np.int64), bits)
    assert words.decode().split("\n") == [f"{v % 2**bits:0{digits}x}" for v in values] + [""]


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    program = random_program(1)
    program.constants = {f"../{name}\0/..": constant for name, constant in program.constants.items()}
    for operator in program.operators:
        operator.constants.update({role: f"../{name}\0/.." for role, name in operator.constants.items()})
    write_golden(program, images_for(program, 1), tmp_path / "a" / "b", {"head"})
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}
    program.constants["x" * 300] = Constant(np.zeros(1, np.int8), 8)
    with pytest.raises(IntVitError, match="too long for a file"):
        write_golden(program, images_for(program, 1), tmp_path / "c", {"head"})


def test_mistakes_are_one_line_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path, 1)
    for options, message in [
        (["--out", str(tmp_path / "golden")], "is not an empty folder"),
        (["--out", str(tmp_path / "other"), "--values", "hed"], "--values hed: no operator has such a name"),
    ]:
        with pytest.raises(SystemExit):
            main(["golden", str(tmp_path / "integer"), "--images", str(tmp_path / "images.npy"), *options])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 1)
    files, save = [], np.save

    def until_full(file: Path, array: np.ndarray) -> None:
        files.append(file)
        if len(files) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array)

    monkeypatch.setattr(np, "save", until_full)
    with pytest.raises(OSError, match="No space left"):
        golden(tmp_path / "integer", [tmp_path / "images.npy"], tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"integer", "images.npy", "golden"}
