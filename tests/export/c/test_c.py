"""`intvit export c`: scores equal the numpy runtime's on every target, no float and no heap, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.c.files import write_c
from intvit.program import Program, save_checkpoint
from intvit.runtime import load_runtime
from tests.support.c_programs import STRICT, TARGETS, need, read_scores, run, scores
from tests.support.programs import dense_images, dense_program, linear_program
from tests.support.random_programs import images_for, random_program

FREE = {"memcpy", "memset", "__aeabi_ldivmod", "__aeabi_uldivmod"}  # what an object may want from elsewhere


def check_equal(program: Program, folder: Path, target: str, **options: Any) -> None:
    images = images_for(program, 5, 1)
    found = scores(program, images, folder, target, **options)
    assert np.array_equal(found, load_runtime(program, "numpy")(images))


@pytest.mark.parametrize("seed", [5, 11])
def test_scores_are_equal_without_a_warning_and_under_sanitizers(seed: int, tmp_path: Path) -> None:
    check_equal(random_program(seed, wide=seed == 11), tmp_path, "gcc")


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "gcc"])
def test_scores_are_equal_on_every_target(target: str, tmp_path: Path) -> None:
    check_equal(random_program(14), tmp_path, target)


@pytest.mark.parametrize("ends", [("upsample", "argmax"), ("upsample",), ("argmax",)])
def test_dense_outputs_are_equal_and_labels_need_no_enlarged_scores(ends: tuple[str, ...], tmp_path: Path) -> None:
    program = replace(dense_program(11, (3, 5), 16, ends), classes=[f"class {i}" for i in range(11)])
    images = dense_images(program, 1)
    found = scores(program, images, tmp_path, "gcc")
    assert np.array_equal(found, load_runtime(program, "numpy")(images))
    arena = int(re.search(r"MODEL_ARENA (\d+)", (tmp_path / "model.h").read_text())[1])
    assert arena < 3 * 4 * 11 * 3 * 5 + 64  # of a few times the coarse scores


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(60))
def test_scores_are_equal_for_random_programs(seed: int, target: str, tmp_path: Path) -> None:
    check_equal(random_program(seed, wide=seed % 4 == 3), tmp_path, target)


def check_model(name: str, preset: str, folder: Path, **changes: Any) -> None:
    from intvit.calibration import calibrate
    from intvit.export.record import record
    from tests.support.registry_models import model_of, random_images, reduced

    model, size = model_of(name, preset, **changes).eval(), reduced(name)[0]
    calibrate(model, [random_images(4, size)])
    program, images = record(model), random_images(3, size).numpy()
    assert np.array_equal(scores(program, images, folder, "gcc"), load_runtime(program, "numpy")(images))


def test_masks_and_position_biases_of_windows_are_equal(tmp_path: Path) -> None:
    check_model("swin_t", "ivit8", tmp_path, width=24, depths=(2,), heads=(3,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", ["ibert8", "ppoly8", "lut8", "ivit8_true8", "lut8_true8", "ivit_paper", "w4a8", "w6a6"]
)
@pytest.mark.parametrize(("name", "changes"), [("swin_t", {}), ("deit_t", {}), ("deit_t", {"pool": "map"})])
def test_models_of_every_preset_are_equal(name: str, changes: dict[str, str], preset: str, tmp_path: Path) -> None:
    check_model(name, preset, tmp_path, **changes)


@pytest.mark.parametrize("weights", ["incbin", "bin"])
def test_constants_may_be_bytes(weights: str, tmp_path: Path) -> None:
    check_equal(random_program(7), tmp_path, "gcc", weights=weights)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    need("gcc")
    for name, seed in (("one", 1), ("two", 2)):
        write_c(random_program(seed), tmp_path / name, weights="bin", main=True)
    run(["gcc", "-o", "model", "model.c", "main.c"], tmp_path / "one")
    with pytest.raises(AssertionError, match=r"weights.bin is not there, or of another model"):
        run(["./model", "../two/weights.bin"], tmp_path / "one")


def test_the_makefile_builds_what_main_runs(tmp_path: Path) -> None:
    need("gcc", "make")
    program = random_program(2)
    save_checkpoint(program, tmp_path / "integer")
    assert not main(["export", "c", str(tmp_path / "integer"), str(tmp_path / "c"), "--main"])
    run(["make", "CC=gcc", "CFLAGS=-O0 -Werror"], tmp_path / "c")
    images = images_for(program, 3, 1)
    found = read_scores(run(["./model"], tmp_path / "c", images))
    assert np.array_equal(found, load_runtime(program, "numpy")(images))


def test_a_program_in_cpp_calls_it(tmp_path: Path) -> None:
    need("gcc", "g++")
    program = random_program(2)
    program.classes = [f"class {index}" for index in range(program.num_classes)]
    for weights in ("array", "bin"):
        write_c(program, folder := tmp_path / weights, weights=weights, main=True)
        (folder / "main.c").rename(folder / "main.cpp")
        with (folder / "main.cpp").open("a") as text:
            text.write("extern const char *const *names;\nconst char *const *names = model_classes;\n")
        sources = ["model.c", *["weights.c"] * (weights == "array")]
        run(["gcc", *STRICT, "-c", *sources], folder)
        objects = [source.replace(".c", ".o") for source in sources]
        run(["g++", "-Wall", "-Wextra", "-pedantic", "-Werror", "-o", "model", "main.cpp", *objects], folder)
        images = images_for(program, 2, 1)
        found = read_scores(run(["./model"], folder, images))
        assert np.array_equal(found, load_runtime(program, "numpy")(images))


def test_a_soft_float_processor_needs_no_float(tmp_path: Path) -> None:
    compiler = TARGETS["cortex-m7"].compiler
    need(compiler)
    for seed in (2, 8):
        write_c(random_program(seed), tmp_path / str(seed))
        options = ["-O2", "-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=soft"]
        run([compiler, *STRICT, *options, "-c", "model.c", "-o", "model.o"], tmp_path / str(seed))
        wanted = run(["arm-none-eabi-nm", "-u", "model.o"], tmp_path / str(seed)).split()[1::2]
        assert {name for name in wanted if not name.startswith("model_")} <= FREE


def test_the_code_names_no_float_and_no_heap(tmp_path: Path) -> None:
    for seed in range(8):
        write_c(random_program(seed), tmp_path / str(seed), main=False)
        code = (tmp_path / str(seed) / "model.c").read_text()
        assert not re.search(
            r"\b(float|double|malloc|free|printf|sqrt|\d+\.\d+)\b", re.sub(r"/\*.*?\*/", "", code, flags=re.S)
        )
        assert set(re.findall(r"#include (.*)", code)) <= {"<string.h>", '"model.h"', '"weights.h"'}


def test_names_of_layers_and_classes_may_be_anything(tmp_path: Path) -> None:
    program = linear_program(np.array([[1, -2], [3, 4]]), 5)
    names = {"head": "*/ int main", "x": "int", "flat": "rows", "w": 'a"\\', "c": "7th"}
    operators = [
        replace(
            o,
            name=names.get(o.name, o.name),
            output=names.get(o.output, o.output),
            inputs=tuple(names.get(i, i) for i in o.inputs),
            constants={role: names.get(n, n) for role, n in o.constants.items()},
        )
        for o in program.operators
    ]
    values = {names.get(name, name): value for name, value in program.values.items()}
    constants = {names.get(name, name): constant for name, constant in program.constants.items()}
    changed = Program(program.input, program.output, values, constants, operators, 1.0, ['a "b"\\', "naïve ??/ 猫"])
    check_equal(changed, tmp_path, "gcc")


@pytest.mark.parametrize("which", ["keys", "values"])
def test_attention_writes_over_no_queries_that_it_still_reads(which: str, tmp_path: Path) -> None:
    program = random_program(14)
    first, second = (o for o in program.operators if o.op == "matmul" and o.name.startswith("blocks.0"))
    queries = first.inputs[0]
    inputs = (queries, queries) if which == "keys" else (second.inputs[0], queries)
    changed = replace(first if which == "keys" else second, inputs=inputs)
    program.operators = [changed if o.name == changed.name else o for o in program.operators]
    check_equal(program, tmp_path, "gcc")


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    program = random_program(1)
    with pytest.raises(
        IntVitError, match=r"the arena takes \d+ bytes, more than --arena-limit 99: at '.*' \d+ are in use"
    ):
        write_c(program, tmp_path / "c", arena_limit=99)
    assert not (tmp_path / "c").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("")
    with pytest.raises(IntVitError, match=r"exists and is not an empty folder"):
        write_c(program, tmp_path / "c")
    foreign = Program(program.input, program.output, program.values, program.constants, list(program.operators))
    foreign.operators[0] = replace(foreign.operators[0], op="blur")
    with pytest.raises(IntVitError, match=r"operator '.*' \(blur\): the C export has no kernel for it"):
        write_c(foreign, tmp_path / "d")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["ivit8", "lut8"])
def test_the_real_deit_is_equal_in_230_kilobytes(preset: str, test_data: Path, tmp_path: Path) -> None:
    from tests.support.real_deit import real_deit, unseen_photos

    program, photos = real_deit(preset, test_data), unseen_photos(test_data)[0]
    written = write_c(program, tmp_path / "size")
    assert written.arena <= 230_000
    assert np.array_equal(scores(program, photos, tmp_path / "c", "gcc"), load_runtime(program, "native")(photos))
