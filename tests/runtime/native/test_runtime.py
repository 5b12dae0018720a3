"""The native runtime equals numpy on every path, with any number of threads, fused and operator by operator."""

import threading
from pathlib import Path

import numpy as np
import pytest

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime import load_runtime
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.runtime import NativeRuntime
from intvit.runtime.native.steps import Kind
from tests.support.native_paths import PATHS, needs_library
from tests.support.programs import dense_images, dense_program
from tests.support.random_programs import images_for, random_program


def assert_equal(program: Program, runtime: NativeRuntime, seed: int) -> None:
    images = images_for(program, 4, seed)
    reference = load_runtime(program, "numpy")
    for (name, value), (other, expected) in zip(runtime.trace(images), reference.trace(images), strict=True):
        assert name == other
        assert np.array_equal(value, expected), f"{runtime.path}, seed {seed}, operator {name}"
    scores = runtime(images)
    assert scores.dtype == np.int32
    assert np.array_equal(scores, reference(images)), f"{runtime.path}, seed {seed}, {runtime.threads} threads"
    assert np.array_equal(runtime(images[:1]), scores[:1])  # fewer images than threads: the threads share it


@needs_library
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("first", range(0, 96, 48))
def test_random_programs_give_equal_integers(path: str, first: int) -> None:
    for seed in range(first, first + 48):
        program = random_program(seed)
        assert_equal(program, NativeRuntime(program, threads=1 + seed % 3, path=path), seed)


@needs_library
@pytest.mark.parametrize("path", PATHS)
def test_programs_wider_than_vectors_and_tiles_give_equal_integers(path: str) -> None:
    for seed in range(24):
        program = random_program(seed, wide=True)
        assert_equal(program, NativeRuntime(program, threads=1 + seed % 2, path=path), seed)


@needs_library
def test_the_random_programs_reach_every_kind_of_step() -> None:
    kinds = set()
    for seed in range(96):
        runtime = NativeRuntime(random_program(seed), threads=1, path="scalar")
        kinds |= {step.kind for step, _ in runtime.step_times()}
        kinds |= {step.kind for step in native_runtime.lower(runtime.program, fuse=False).steps}
    assert kinds == set(Kind)


@needs_library
def test_several_runtimes_live_side_by_side() -> None:
    programs = [random_program(seed) for seed in (1, 2, 3)]
    runtimes = [NativeRuntime(program, threads=2) for program in programs]
    for _ in range(2):
        for program, runtime in zip(programs, runtimes, strict=True):
            images = images_for(program, 5)
            assert np.array_equal(runtime(images), load_runtime(program, "numpy")(images))
    assert all(runtime.memory > 0 for runtime in runtimes)


@needs_library
def test_the_path_is_chosen_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_runtime.VARIABLE, "scalar")
    assert NativeRuntime(random_program(0)).path == "scalar"
    monkeypatch.setenv(native_runtime.VARIABLE, "sse9")
    with pytest.raises(IntVitError, match=r"^INTVIT_NATIVE_PATH='sse9': unknown path.*of which .*scalar run here"):
        NativeRuntime(random_program(0))
    foreign = next(path for path in native_runtime.PATHS if path not in PATHS)
    with pytest.raises(IntVitError, match=rf"^path='{foreign}': .* does not run on this machine; there are .*scalar"):
        NativeRuntime(random_program(0), path=foreign)
    monkeypatch.setenv(native_runtime.VARIABLE, foreign)
    with pytest.raises(IntVitError, match=rf"^INTVIT_NATIVE_PATH='{foreign}': .* does not run on this machine"):
        NativeRuntime(random_program(0))
    monkeypatch.setenv(native_runtime.VARIABLE, "")
    assert NativeRuntime(random_program(0)).path == PATHS[0]


@needs_library
def test_bench_refuses_a_path_before_it_makes_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("intvit.commands.bench_runtime.models", lambda _: pytest.fail("a model was made"))
    foreign = next(path for path in native_runtime.PATHS if path not in PATHS)
    with pytest.raises(SystemExit):
        main(["bench", "runtime", "--path", foreign])
    assert f"path='{foreign}': this path of the native runtime does not run" in capsys.readouterr().err


@needs_library
@pytest.mark.parametrize("dense", [False, True], ids=["scores", "labels"])
def test_images_of_every_layout_give_equal_integers(dense: bool) -> None:
    program = dense_program(3, (3, 5), 4, ("upsample", "argmax")) if dense else random_program(9)
    images = dense_images(program, 1) if dense else images_for(program, 4, 1)
    expected, runtime = load_runtime(program, "numpy")(images), NativeRuntime(program, threads=2)
    read_only, wide = images.copy(), np.repeat(images, 2, axis=-1)
    read_only.flags.writeable = False
    turned = np.ascontiguousarray(images[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    odd = np.frombuffer(b"x" + images.tobytes(), np.uint8)[1:].reshape(images.shape)
    for form in (np.asfortranarray(images), read_only, wide[..., ::2], turned, odd):
        assert np.array_equal(runtime(form), expected)
    repeated = np.broadcast_to(images[:1], (1000, *images.shape[1:]))
    assert np.array_equal(runtime(repeated), np.broadcast_to(expected[:1], (1000, *expected.shape[1:])))


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "scalar.so").write_bytes(b"compiled for another machine")
    monkeypatch.setattr(native_runtime, "FOLDER", tmp_path)
    with pytest.raises(IntVitError, match=r"scalar\.so cannot be loaded \(.*\): install intvit again here"):
        load_runtime(random_program(0), "native")


def test_without_a_library_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_runtime, "FOLDER", tmp_path)
    with pytest.raises(IntVitError, match=r"install a C\+\+17 compiler"):
        load_runtime(random_program(0), "native")


@pytest.mark.xdist_group("emulated_amx")
def test_the_amx_path_is_equal_with_emulated_tiles(emulated_amx: str) -> None:
    for seed in range(48):
        program = random_program(seed, wide=seed % 2 == 0)
        runtime = NativeRuntime(program, threads=1 + seed % 3, path=emulated_amx)
        assert runtime.path == "amx"
        assert_equal(program, runtime, seed)


@pytest.mark.xdist_group("emulated_amx")
def test_threads_may_ask_at_the_same_time_whether_tiles_are_exact(emulated_amx: str) -> None:
    library, begin = native_runtime.load_library(emulated_amx), threading.Barrier(2)
    missing: list[int] = []

    def ask() -> None:
        begin.wait()
        missing.extend(turn for turn in range(100) if not library.intvit_supported())

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not missing


@pytest.mark.skipif("avx512" not in PATHS, reason="not an x86 machine of today")
def test_paths_that_this_machine_lacks_compile() -> None:
    assert {"amx", "avxvnni"} <= native_runtime.available().keys()
