"""`intvit export rtl`: every unit gives the numpy runtime's integers in a simulator, and what is refused."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.export.rtl.files import FormOf, units_of, write_rtl, write_units
from intvit.export.rtl.softmax_gelu import TABLE_BITS
from intvit.export.rtl.unit import joined, packed, signed_bits
from intvit.program import Program, save_checkpoint
from tests.support.c_programs import need
from tests.support.random_programs import images_for, random_program
from tests.support.real_deit import real_deit, unseen_photos
from tests.support.small_models import extreme_images, prepared, random_images, small_model

LIBRARY = Path(__file__).parents[3] / "src" / "intvit" / "export" / "rtl" / "units"


def simulate(seed: int, form: FormOf, folder: Path, simulator: str) -> None:
    program = random_program(seed)
    units = write_rtl(program, folder, images_for(program, 6, seed)[4:6], form=form, rows=4)
    done = subprocess.run(["make", "-C", str(folder), simulator], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("PASS") == len(units)


@pytest.mark.parametrize("seed", [1, 7])
def test_every_unit_passes_its_bench(seed: int, tmp_path: Path) -> None:
    need("iverilog", "make")
    simulate(seed, "as-trained", tmp_path, "icarus")


def join(program: Program, images: np.ndarray, folder: Path, simulator: str, cells: int) -> str:
    """The log of block 0 as one stream."""
    write_rtl(program, folder, images, rows=2, top=cells)
    done = subprocess.run(
        ["make", "-C", str(folder), f"block_0/{simulator}.log"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (folder / "block_0" / f"{simulator}.log").read_text()


def test_a_block_as_one_stream_gives_the_rows_of_several_images(tmp_path: Path) -> None:
    need("iverilog", "make")
    program = random_program(9)
    assert "PASS block_0: 96 outputs" in join(program, images_for(program, 6, 9)[3:6], tmp_path, "icarus", 8)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 5, 40])
@pytest.mark.parametrize("seed", [1, 4, 9])
def test_a_block_is_equal_with_any_number_of_cells(seed: int, cells: int, tmp_path: Path) -> None:
    need("iverilog", "make")
    program = random_program(seed)
    assert "PASS block_0" in join(program, images_for(program, 6, seed)[3:6], tmp_path, "icarus", cells)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ivit8", "ibert8_true8", "lut8,quant/hardware=dsp17", "ivit_paper"])
def test_a_block_of_a_trained_models_kind_is_equal_in_a_second_simulator(preset: str, tmp_path: Path) -> None:
    need("verilator", "make")
    quant, *overrides = preset.split(",")
    program = record(prepared(small_model(quant, overrides)))
    images = torch.cat((random_images(2, 1), extreme_images(3))).numpy()
    assert "PASS block_0" in join(program, images, tmp_path, "verilator", 16)


@pytest.mark.slow
def test_the_real_deits_first_block_is_equal_on_three_photos(test_data: Path, tmp_path: Path) -> None:
    need("verilator", "make")
    log = join(real_deit("ivit8", test_data), unseen_photos(test_data)[0][:3], tmp_path, "verilator", 32)
    assert "PASS block_0: 113472 outputs" in log


@pytest.mark.slow
@pytest.mark.parametrize("form", ["as-trained", "table"])
@pytest.mark.parametrize("seed", [*range(16), 20, 23])
def test_units_of_every_family_pass(seed: int, form: FormOf, tmp_path: Path) -> None:
    need("iverilog", "make")
    program = random_program(seed)
    functions = [o for o in program.operators if o.op in ("exponential", "softmax") and o.name.startswith("blocks.0.")]
    if form == "table" and any(program.values[o.inputs[0]].bits > TABLE_BITS for o in functions):
        with pytest.raises(IntVitError, match="is no unit; give --form as-trained"):
            simulate(seed, form, tmp_path, "icarus")
    else:
        simulate(seed, form, tmp_path, "icarus")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5, 15])
def test_a_second_simulator_agrees(seed: int, tmp_path: Path) -> None:
    need("verilator", "make")
    simulate(seed, "as-trained", tmp_path, "verilator")


def simulate_functions(preset: str, folder: Path, simulator: str) -> set[str]:
    """Exponentials and GELUs of block 0 with `dsp17`'s constants pass on every argument; their kinds."""
    program = record(prepared(small_model(preset, ["quant/hardware=dsp17"], depth=1)))
    units = units_of(program, random_images(1, 1).numpy(), blocks=[0], form="as-trained", rows=1)
    functions = [unit for unit in units if unit.kind.startswith(("exponential", "gelu"))]
    write_units(folder, functions)
    done = subprocess.run(["make", "-C", str(folder), simulator], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("PASS") == len(functions)
    return {unit.kind for unit in functions}


SHORT_FUNCTIONS = {
    "ivit8": {"exponential shift short", "gelu shift short"},
    "ibert8": {"exponential polynomial short", "gelu polynomial short"},
    "ppoly8": {"exponential piecewise short", "gelu piecewise short"},
}


def test_functions_with_short_constants_pass(tmp_path: Path) -> None:
    need("iverilog", "make")
    assert simulate_functions("ppoly8", tmp_path, "icarus") == SHORT_FUNCTIONS["ppoly8"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHORT_FUNCTIONS)
def test_functions_with_short_constants_pass_in_a_second_simulator(preset: str, tmp_path: Path) -> None:
    need("verilator", "make")
    assert simulate_functions(preset, tmp_path, "verilator") == SHORT_FUNCTIONS[preset]


@pytest.mark.slow
def test_a_unit_is_placed_and_timed(tmp_path: Path) -> None:
    need("yosys", "nextpnr-ecp5", "make")
    units = units_of(random_program(2), images_for(random_program(2), 1), blocks=[0], form="table", rows=1)
    requantize, gelu = (next(u for u in units if u.kind == kind) for kind in ("requantize", "gelu polynomial"))
    write_units(tmp_path, [requantize, gelu])
    done = subprocess.run(["make", "-s", "-C", str(tmp_path), "clock"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(rf"{requantize.name}/ecp5.log: .*: \d+\.\d+ MHz", done.stdout)
    assert re.search(rf"{gelu.name}/ecp5.log: .*no interior timing paths", done.stdout)  # a table: from pin to register


def test_a_wrong_output_is_found(tmp_path: Path) -> None:
    need("iverilog", "make")
    program = random_program(2)
    unit = next(u for u in write_rtl(program, tmp_path, images_for(program, 2)) if u.kind == "requantize")
    file = tmp_path / unit.name / "outputs.hex"
    lines = file.read_text().splitlines()
    lines[1] = f"{int(lines[1], 16) ^ 1:x}"
    file.write_text("\n".join(lines) + "\n")
    done = subprocess.run(["make", f"{unit.name}/icarus.log"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "FAIL" in (tmp_path / unit.name / "icarus.log").read_text()


def test_the_library_has_no_lint(tmp_path: Path) -> None:
    need("verilator")
    quiet = ["-Wno-DECLFILENAME", "-Wno-MULTITOP", "-Wno-UNUSEDSIGNAL", "-Wno-UNOPTFLAT"]
    command = ["verilator", "--lint-only", "-Wall", *quiet, *map(str, sorted(LIBRARY.glob("*.sv")))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_functions_are_tested_on_every_argument() -> None:
    for seed in range(6):
        program = random_program(seed)
        for unit in units_of(program, images_for(program, 1), blocks=[0], form="as-trained", rows=1):
            operator = next(o for o in program.operators if o.name == unit.operator)
            bits = program.values[operator.inputs[0]].bits
            if unit.kind.startswith("gelu") and not unit.kind.startswith("gelu shift"):
                assert set(unit.inputs) == set(range(2**bits))
            if unit.kind.startswith(("softmax", "exponential")) and bits <= 8:
                top = 2 ** (bits - 1) - 1
                assert {word & (2**bits - 1) for word in unit.inputs} == set(range(2**bits))
                assert sum(word == top for word in unit.inputs) >= 1


def test_words_are_twos_complement_with_the_first_field_low() -> None:
    assert joined((np.array([-1, 2]), 4), (np.array([1, 0]), 1)) == [0b1_1111, 0b0_0010]
    assert packed([1, -1], 4) == "8'hf1"
    assert [signed_bits(v) for v in (0, 1, -1, -128, 127, 128)] == [1, 2, 1, 8, 8, 9]


def test_what_has_no_unit_is_refused_in_one_line(tmp_path: Path) -> None:
    program = random_program(0)
    images = images_for(program, 1)
    with pytest.raises(IntVitError, match=r"--blocks 7: the program has no such block"):
        write_rtl(program, tmp_path / "a", images, blocks=[7])
    with pytest.raises(IntVitError, match=r"is trained as a table; --form as-trained takes it"):
        write_rtl(program, tmp_path / "a", images, form="computed")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(IntVitError, match=r"exists and is not an empty folder"):
        write_rtl(program, tmp_path / "full", images)
    with pytest.raises(IntVitError, match=r"--top: blocks.0 is layernorm, linear, .* no ViT's block; leave --top out"):
        write_rtl(random_program(2), tmp_path / "c", images_for(random_program(2), 1), top=8)
    foreign = random_program(0)
    index = next(i for i, o in enumerate(foreign.operators) if o.name.startswith("blocks.0") and o.op == "gelu")
    foreign.operators[index] = replace(foreign.operators[index], op="blur")
    with pytest.raises(IntVitError, match=r"\(blur\): no RTL unit for it"):
        write_rtl(foreign, tmp_path / "b", images)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_the_command_writes_units_of_a_checkpoint_and_its_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, options in ((5, ["--form", "table"]), (9, ["--top", "--cells", "8"])):
        folder, out = tmp_path / f"integer{seed}", tmp_path / f"rtl{seed}"
        save_checkpoint(random_program(seed), folder)
        assert not main(["export", "rtl", str(folder), str(out), *options, "--rows", "2"])
        assert f"{14 + (seed == 9)} units" in capsys.readouterr().out
        assert (out / "units" / "arithmetic.sv").exists()
        assert ("BLOCKS = block_0" in (out / "Makefile").read_text()) == (seed == 9)
