"""Checkpoints: an exact round trip, an atomic save, and a one-line error for every kind of damage."""

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from intvit.program import Constant, ProgramError, container, load_checkpoint, save_checkpoint
from intvit.program.weights import pack, unpack
from tests.support.random_programs import random_program

WEIGHTS, PROGRAM = "weights.safetensors", "program.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(random_program(4), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def error(folder: Path) -> str:
    """The message of load_checkpoint after the folder's path; it is one line."""
    with pytest.raises(ProgramError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder}: ")
    return message[len(f"{folder}: ") :]


def edit(folder: Path, change: Callable[[dict], None]) -> str:
    document = json.loads((folder / PROGRAM).read_text())
    change(document)
    (folder / PROGRAM).write_text(json.dumps(document))
    return error(folder)


@pytest.mark.parametrize("seed", range(24))
def test_the_round_trip_is_exact(seed: int, tmp_path: Path) -> None:
    program = random_program(seed)
    save_checkpoint(program, tmp_path / "a")
    loaded = load_checkpoint(tmp_path / "a")
    assert loaded == program
    for name, constant in loaded.constants.items():
        assert constant.array.dtype == container(constant.bits, constant.signed), name
        assert constant.array.shape == program.constants[name].array.shape
    save_checkpoint(loaded, tmp_path / "b")
    for file in (WEIGHTS, PROGRAM, "bounds.json", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (3, 5), (2, 3, 4)])
def test_packing_four_bits_is_exact(signed: bool, shape: tuple[int, ...]) -> None:
    low, high = (-8, 8) if signed else (0, 16)
    array = np.random.default_rng(0).integers(low, high, shape)
    packed = pack(array)
    assert packed.dtype == np.uint8
    assert packed.size == (array.size + 1) // 2
    assert np.array_equal(unpack(packed, shape, signed), array)


def test_packing_puts_the_low_nibble_first() -> None:
    assert pack(np.array([1, -1, 7])).tolist() == [0xF1, 0x07]


def test_files_hold_integers_in_the_smallest_container_and_packed_four_bit_weights(folder: Path) -> None:
    program, stored = load_checkpoint(folder), load_file(folder / WEIGHTS)
    assert stored.keys() == program.constants.keys()
    packed = 0
    for name, array in stored.items():
        constant = program.constants[name]
        assert array.dtype.kind in "iu"
        if constant.bits <= 4:
            packed += 1
            assert array.dtype == np.uint8
            assert array.shape == ((constant.array.size + 1) // 2,)
        else:
            assert array.dtype == container(constant.bits, constant.signed)
            assert np.array_equal(array, constant.array)
    assert packed > 0


def test_bounds_are_stored_with_the_absence_of_floating_point(folder: Path) -> None:
    proof = json.loads((folder / "bounds.json").read_text())
    program = load_checkpoint(folder)
    assert proof["holds_for"] == "every uint8 image"
    assert proof["floating_point_tensors"] == 0
    assert sum(proof["tensors_by_type"].values()) == len(program.constants)
    assert [entry["name"] for entry in proof["operators"]] == [operator.name for operator in program.operators]
    assert 8 < proof["widest_accumulator_bits"] <= 32


def test_saving_replaces_a_checkpoint_and_leaves_nothing_beside(folder: Path) -> None:
    save_checkpoint(random_program(5), folder)
    assert load_checkpoint(folder) == random_program(5)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "bounds.json", PROGRAM, WEIGHTS]


def test_saving_refuses_to_replace_anything_else(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ProgramError, match=r"holds files besides a checkpoint's \(notes.txt\); move them"):
        save_checkpoint(random_program(5), folder)
    other = folder.parent / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"")
    with pytest.raises(ProgramError, match="is not empty and not a checkpoint"):
        save_checkpoint(random_program(5), other)
    with pytest.raises(ProgramError, match="is a file; give a folder"):
        save_checkpoint(random_program(5), other / "cat.jpg")
    assert load_checkpoint(folder) == random_program(4)


def test_a_failed_save_keeps_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".new." in self.name:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(random_program(5), folder)
    assert load_checkpoint(folder) == random_program(4)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_program_that_breaks_the_format_is_not_saved(tmp_path: Path) -> None:
    program = random_program(4)
    program.constants["spare"] = Constant(np.zeros(1, np.int8), 8)
    with pytest.raises(ProgramError, match="used by no operator"):
        save_checkpoint(program, tmp_path / "checkpoint")
    program = random_program(4)
    program.provenance = {"scores": np.float32(1)}
    with pytest.raises(ProgramError, match="does not fit JSON"):
        save_checkpoint(program, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_missing_files_are_named(folder: Path) -> None:
    assert error(folder.parent / "nowhere") == "is not a folder; give the folder that holds program.json"
    assert error(folder.parent) == "holds no program.json; this is not a whole integer checkpoint"
    (folder / WEIGHTS).unlink()
    assert error(folder) == "holds no weights.safetensors; this is not a whole integer checkpoint"


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_named(folder: Path, share: float) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: int(len(whole) * share)])
    assert error(folder) == (
        f"weights.safetensors has {int(len(whole) * share)} bytes, program.json expects {len(whole)}: "
        "the file is truncated; copy it again"
    )
    (folder / WEIGHTS).write_bytes(whole)
    text = (folder / PROGRAM).read_bytes()
    (folder / PROGRAM).write_bytes(text[: int(len(text) * share)])
    assert error(folder).startswith("program.json is not valid JSON")


def test_a_changed_weight_is_caught(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    assert error(folder).startswith("weights.safetensors does not have the sha256 that program.json states")


def rewrite_header(folder: Path, change: Callable[[dict], None]) -> str:
    """The error after a change to the header of the weights file, with its size restored in program.json."""
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    (folder / WEIGHTS).write_bytes(data)
    return edit(folder, lambda document: document["weights"].update(bytes=len(data)))


def test_the_header_of_the_weights_is_checked_before_anything_is_read(folder: Path) -> None:
    name = "head.bias"

    def grow(header: dict) -> None:
        header[name]["shape"] = [2**40]

    original = (folder / WEIGHTS).read_bytes()
    assert f"constant '{name}' has shape [1099511627776], program.json expects" in rewrite_header(folder, grow)
    (folder / WEIGHTS).write_bytes(original)
    assert "has dtype 'F32', program.json expects 'I32'" in rewrite_header(
        folder, lambda h: h[name].update(dtype="F32")
    )
    (folder / WEIGHTS).write_bytes(original)
    outside = rewrite_header(folder, lambda h: h[name].update(data_offsets=[2**40, 2**40 + h[name]["shape"][0] * 4]))
    assert "does not hold them; damaged file" in outside
    (folder / WEIGHTS).write_bytes(original)
    assert "no valid data_offsets" in rewrite_header(folder, lambda h: h[name].update(data_offsets="all"))
    (folder / WEIGHTS).write_bytes(original)
    assert f"constant '{name}' is missing" in rewrite_header(folder, lambda h: h.pop(name))
    (folder / WEIGHTS).write_bytes(original)
    assert "holds 'spare', which program.json does not declare" in rewrite_header(folder, lambda h: h.update(spare={}))


def test_a_damaged_header_is_named(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + data[8:])
    assert "the header does not fit the file" in error(folder)
    (folder / WEIGHTS).write_bytes(data[:8] + b"?" + data[9:])
    assert "the header is not JSON" in error(folder)


def test_structure_of_the_document_is_checked(folder: Path) -> None:
    original = (folder / PROGRAM).read_text()

    def after(change: Callable[[dict], None]) -> str:
        (folder / PROGRAM).write_text(original)
        return edit(folder, change)

    assert 'does not say "format": "intvit"' in after(lambda d: d.pop("format"))
    assert after(lambda d: d.update(version=2)).startswith("program.json has format version 2, this release reads 1")
    assert "key 'operators' is missing" in after(lambda d: d.pop("operators"))
    assert "unknown key 'extra'" in after(lambda d: d.update(extra=1))
    assert "'operators' is of type dict, expected list" in after(lambda d: d.update(operators={}))
    assert "operators[0] is of type int, expected an object" in after(lambda d: d["operators"].insert(0, 3))
    assert "operators[1]: 'name' is of type int" in after(lambda d: d["operators"][1].update(name=3))
    assert "'inputs' must be a list of strings" in after(lambda d: d["operators"][1].update(inputs=[3]))
    assert "value 'image': shape" in after(lambda d: d["values"]["image"].update(shape=[3, -1, 4]))
    assert "value 'image': 'bits' is of type float" in after(lambda d: d["values"]["image"].update(bits=8.0))
    assert "'score_scale' is of type str, expected a finite number" in after(lambda d: d.update(score_scale="1"))
    assert "constant 'head.bias': 99 bits" in after(lambda d: d["constants"]["head.bias"].update(bits=99))
    assert "does not agree with its entry in values" in after(lambda d: d["input"].update(shape=[3, 224, 224]))
    assert "'weights' must give file" in after(lambda d: d.update(weights={}))
    assert "weights: unknown key 'extra'" in after(lambda d: d["weights"].update(extra=1))
    assert "value 'image': key 'scale' is missing" in after(lambda d: d["values"]["image"].pop("scale"))


def test_text_that_is_not_a_document_is_named(folder: Path) -> None:
    for text, message in [
        ("[1, 2]", 'does not say "format"'),
        ("[" * 100_000, "is not valid JSON"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
    ]:
        (folder / PROGRAM).write_text(text)
        assert message in error(folder)
    (folder / PROGRAM).write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in error(folder)


def test_content_is_checked_on_load(folder: Path) -> None:
    original = (folder / PROGRAM).read_text()

    def shape(document: dict) -> None:
        document["values"]["head"]["shape"] = [99]

    assert edit(folder, shape).startswith("operator 'head' (linear): output is declared as [99]")
    (folder / PROGRAM).write_text(original)

    def overflow(document: dict) -> None:
        document["operators"][-1]["attributes"]["bits"] = 8
        document["values"]["head.scores"]["bits"] = 8

    assert "scores may reach" in edit(folder, overflow)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_byte_gives_a_program_or_a_program_error_and_nothing_else(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = folder / (PROGRAM if seed % 3 else WEIGHTS)
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] = int(rng.integers(256))
    path.write_bytes(data)
    with contextlib.suppress(ProgramError):
        assert load_checkpoint(folder).operators


def test_a_pointer_of_git_lfs_is_told_from_a_truncated_file(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert (
        error(folder) == "weights.safetensors is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that"
    )


def test_texts_that_are_not_utf8_are_refused_where_they_are_saved_and_read(folder: Path, tmp_path: Path) -> None:
    program = load_checkpoint(folder)
    program.provenance = {"weights": {"file": "na\udcefve.safetensors"}}
    with pytest.raises(ProgramError, match=r"a text that is not UTF-8: '.*na\\udcefve.*'; rename what is called so"):
        save_checkpoint(program, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    text = (folder / PROGRAM).read_text()
    (folder / PROGRAM).write_text(text.replace('"provenance": {', '"provenance": {"a": "\\udcef", ', 1))
    assert error(folder).startswith("program.json holds a text that is not UTF-8; the file is damaged")
    (folder / PROGRAM).write_text(text.replace('"provenance": {', '"provenance": {"a": "\\ud83d\\udc31", ', 1))
    assert load_checkpoint(folder).provenance["a"] == "\N{CAT FACE}"
