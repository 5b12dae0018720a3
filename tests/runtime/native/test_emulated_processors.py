"""Paths of processors that are not at hand: cross-compiled and emulated, equal to numpy."""

import random
from pathlib import Path

import numpy as np
import pytest

from intvit.runtime import load_runtime
from intvit.runtime.native.plan_file import plan_bytes
from tests.support.emulated_processors import TARGETS, Emulated
from tests.support.fuzz_native import damaged_plan_file
from tests.support.preset_programs import preset_cases
from tests.support.random_programs import images_for, random_program
from tests.support.real_deit import real_deit, unseen_photos
from tests.support.small_models import PRESETS


def assert_random_programs_are_equal(emulated: Emulated, seeds: range) -> None:
    for seed in seeds:
        program = random_program(seed, wide=seed % 2 == 0)
        images = images_for(program, 2, seed)
        expected = load_runtime(program, "numpy")(images)
        assert np.array_equal(emulated(program, images, threads=1 + seed % 3), expected), f"seed {seed}"


@pytest.mark.parametrize("path", ["neon", "avxvnni"])
def test_random_programs(path: str, tmp_path: Path) -> None:
    assert_random_programs_are_equal(Emulated(path, tmp_path, "-O1"), range(6))


@pytest.mark.slow
@pytest.mark.parametrize("path", TARGETS)
def test_many_random_programs(path: str, tmp_path: Path) -> None:
    assert_random_programs_are_equal(Emulated(path, tmp_path, "-O2"), range(150))


@pytest.mark.slow
@pytest.mark.parametrize("path", TARGETS)
def test_every_preset_and_architecture(path: str, tmp_path: Path) -> None:
    emulated = Emulated(path, tmp_path, "-O2")
    for preset in PRESETS:
        for name, program, images in preset_cases(preset):
            assert np.array_equal(emulated(program, images), load_runtime(program, "numpy")(images)), f"{preset} {name}"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["neon", "neon-i8mm", "avxvnni"])
def test_the_real_deit_on_photos(path: str, tmp_path: Path, test_data: Path) -> None:
    emulated, program = Emulated(path, tmp_path, "-O2"), real_deit("ivit8", test_data)
    photos = unseen_photos(test_data)[0][:2]
    assert np.array_equal(emulated(program, photos), load_runtime(program, "numpy")(photos))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path, target in TARGETS.items() if target.without])
def test_a_processor_without_the_instructions_is_told_so(path: str, tmp_path: Path) -> None:
    emulated = Emulated(path, tmp_path, "-O1")
    done = emulated.run("none.plan", "none.raw", 1, emulator=emulated.target.without)
    assert (done.returncode, done.stderr) == (1, f"this machine does not run the path {path}\n")


@pytest.mark.slow
@pytest.mark.parametrize("path", TARGETS)
def test_damaged_plan_files_never_crash(path: str, tmp_path: Path) -> None:
    """Under AddressSanitizer and UBSan where there are such: an error of one line, or scores."""
    emulated, rng = Emulated(path, tmp_path, "-O1", sanitized=True), random.Random(7)
    plan, pixels = tmp_path / "damaged.plan", tmp_path / "images.raw"
    refused = 0
    for case in range(300):
        if case % 30 == 0:
            program = random_program(rng.randrange(400))
            whole = plan_bytes(program)
            pixels.write_bytes(images_for(program, 2, case).tobytes())
        plan.write_bytes(damaged_plan_file(whole, rng))
        done = emulated.run(plan, pixels, 1 + case % 2)
        assert done.returncode in (0, 1), done.stderr
        assert len(done.stderr.splitlines()) == done.returncode, done.stderr
        refused += done.returncode
    assert 0 < refused < 300
