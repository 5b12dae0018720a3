"""The loader survives what is done to a checkpoint: a clear error or an equal result, no crash, bounded memory."""

import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from intvit.program import Constant, Operator, Program, ProgramError, load_checkpoint, save_checkpoint
from tests.support import fuzz_checkpoints
from tests.support.programs import program_of
from tests.support.random_programs import random_program

MEMORY = 160 * 2**20  # bytes beyond which loading a file of some KiB is out of bounds; runtimes need them too


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("seed", [0, 1000])
def test_mutations_are_refused_in_one_line_or_run_equally_on_two_runtimes(seed: int, traced: None) -> None:
    outcomes, peak, _ = fuzz_checkpoints.fuzz(80, seed)
    assert peak < MEMORY
    assert {kind for kind, _ in outcomes} == {mutation.__name__ for mutation in fuzz_checkpoints.MUTATIONS}
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "equal") > 0


def large_program(size: int) -> Program:
    """A few operators on an image [3, size, size], spread over channels in every way; valid, and small as a file."""
    entries = size * size
    constants = {
        "m": Constant(np.array([2**20, 2**21, 2**22]), 32),
        "b": Constant(np.array([0, -(2**25), 2**26]), 64),
        "one": Constant(np.array([1]), 32),
        "e": Constant(np.array([1]), 8),
        "row": Constant(np.array([[1, 2, 3], [3, 2, 1]]), 8),
        "bias": Constant(np.array([0, 0]), 32),
    }
    roles = {"multiplier": "m", "bias": "b"}
    shift = {"multiplier": "one", "shift": "e"}
    steps = [
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 22}, roles),
        Operator("patches", "p", ("x",), "p", {"patch": 1}),
        Operator("reshape", "flat", ("p",), "flat", {"shape": (3 * entries,)}),
        Operator("reshape", "turned", ("flat",), "turned", {"shape": (3, entries)}),
        Operator("concat", "twice", ("turned", "turned"), "twice", {"axis": 0}),
        Operator("transpose", "back", ("twice",), "back", {"axes": (1, 0)}),
        Operator("requantize", "wide", ("back",), "wide", {"bits": 8, "signed": True}, shift),
        Operator("matmul", "square", ("wide", "wide"), "square", {"transpose_b": True}),
        Operator("slice", "one", ("p",), "one", {"axis": 0, "start": 0, "stop": 1}),
        Operator("reshape", "pixel", ("one",), "pixel", {"shape": (3,)}),
        Operator("linear", "head", ("pixel",), "head", {}, {"weight": "row", "bias": "bias"}),
        Operator("requantize", "scores", ("head",), "scores", {"bits": 32, "signed": True}, shift),
    ]
    steps = [step for step in steps if step.op != "matmul" or entries**2 < 2**31]
    return program_of(*steps, constants=constants, shape=(3, size, size))


@pytest.mark.parametrize("size", [16, 210, 2000, 18900])
def test_large_tensors_of_a_small_file_cost_little_memory_to_prove(size: int, tmp_path: Path, traced: None) -> None:
    program = large_program(size)
    save_checkpoint(program, tmp_path / "checkpoint")
    assert load_checkpoint(tmp_path / "checkpoint") == program
    assert tracemalloc.get_traced_memory()[1] < MEMORY


def reshaped(folder: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    (folder / fuzz_checkpoints.WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    fuzz_checkpoints.seal(folder)


def test_constants_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Else thousands of constants could each stand for the whole file."""
    save_checkpoint(random_program(4), tmp_path / "checkpoint")
    data = (tmp_path / "checkpoint" / fuzz_checkpoints.WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    one, two = [name for name, entry in header.items() if entry["shape"] == [1] and entry["dtype"] == "I32"][:2]
    header[one]["data_offsets"] = header[two]["data_offsets"]
    reshaped(tmp_path / "checkpoint", header, data[8 + length :])
    with pytest.raises(ProgramError, match="two constants share the bytes"):
        load_checkpoint(tmp_path / "checkpoint")


def test_an_empty_constant_of_an_impossible_shape_is_refused(tmp_path: Path) -> None:
    save_checkpoint(random_program(4), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / fuzz_checkpoints.PROGRAM
    document = json.loads(path.read_text())
    next(iter(document["constants"].values()))["shape"] = [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]
    path.write_text(json.dumps(document))
    with pytest.raises(ProgramError, match="is too large"):
        load_checkpoint(tmp_path / "checkpoint")


def test_a_key_repeated_among_a_hundred_thousand_is_found_at_once(tmp_path: Path) -> None:
    save_checkpoint(random_program(4), tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / fuzz_checkpoints.PROGRAM
    keys = ", ".join(f'"{index}": 0' for index in range(100_000))
    path.write_text(path.read_text().replace('"provenance": {', f'"provenance": {{{keys}, "99999": 1, ', 1))
    with pytest.raises(ProgramError, match="the key '99999' stands twice"):
        load_checkpoint(tmp_path / "checkpoint")
