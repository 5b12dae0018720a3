"""The native runtime in other people's processes: fork, spawn, pickle, threads, memory."""

import copy
import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from intvit.program import Program, save_checkpoint
from intvit.runtime import load, load_runtime
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.lowering import REQUANTIZED
from intvit.runtime.native.runtime import Engine, NativeRuntime, load_library
from intvit.runtime.native.steps import Kind, Step
from intvit.runtime.plan import ExecutionPlan
from tests.support.native_paths import needs_library
from tests.support.programs import dense_images, dense_program, linear_program
from tests.support.random_programs import images_for, random_program

pytestmark = needs_library
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")


def holds_in_child(promise: Callable[[], bool]) -> bool:
    """Does promise() hold in a forked child? A child that hangs is ended after a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for any fork beside threads
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        held = False
        try:
            held = promise()
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("dense", [False, True], ids=["scores", "labels"])
def test_a_runtime_works_in_a_forked_child(dense: bool) -> None:
    program = dense_program(11, (3, 4), 16, ("upsample", "argmax")) if dense else random_program(3)
    images = dense_images(program, 1) if dense else images_for(program, 4, 3)
    expected = load_runtime(program, "numpy")(images)
    runtime = NativeRuntime(program, threads=3)

    def equal() -> bool:
        one, all_ = runtime(images[:1]), runtime(images)
        return np.array_equal(one, expected[:1]) and np.array_equal(all_, expected)

    assert holds_in_child(equal)  # before its first call
    assert equal()
    assert holds_in_child(equal)  # with threads that the child lacks
    assert holds_in_child(lambda: equal() and holds_in_child(equal))
    assert equal()


def test_a_fork_waits_for_calls_of_other_threads() -> None:
    program = random_program(5)
    images = images_for(program, 8, 5)
    expected = load_runtime(program, "numpy")(images)
    runtime = NativeRuntime(program, threads=2)
    stop, wrong = threading.Event(), []

    def call() -> None:
        while not stop.is_set():
            if not np.array_equal(runtime(images), expected):
                wrong.append(1)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(10):
            assert holds_in_child(lambda: np.array_equal(runtime(images), expected))
    finally:
        stop.set()
        caller.join()
    assert not wrong


def scores_of(runtime: NativeRuntime, images: np.ndarray) -> tuple[np.ndarray, int, str]:
    return runtime(images), runtime.threads, runtime.path


def test_a_runtime_pickles_also_to_a_spawned_process() -> None:
    program = random_program(4)
    images = images_for(program, 2, 4)
    runtime = NativeRuntime(program, threads=2, path="scalar")
    for other in (pickle.loads(pickle.dumps(runtime)), copy.copy(runtime), copy.deepcopy(runtime)):
        assert np.array_equal(other(images), runtime(images))
        assert (other.threads, other.path) == (2, "scalar")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        scores, threads, path = pool.apply(scores_of, (runtime, images))
    assert np.array_equal(scores, runtime(images))
    assert (threads, path) == (2, "scalar")


def test_what_was_left_to_the_machine_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    data = pickle.dumps(NativeRuntime(random_program(4)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv(native_runtime.VARIABLE, "scalar")
    other = pickle.loads(data)
    assert (other.threads, other.path) == (3, "scalar")


def test_two_runtimes_in_two_threads_and_one_in_both() -> None:
    programs = [random_program(seed) for seed in (6, 7)]
    images = [images_for(program, 6, 1) for program in programs]
    expected = [load_runtime(p, "numpy")(x) for p, x in zip(programs, images, strict=True)]
    runtimes = [NativeRuntime(program, threads=2) for program in programs]
    wrong: list[int] = []

    def call(first: int) -> None:
        for turn in range(40):
            index = (first + turn // 10) % 2
            if not np.array_equal(runtimes[index](images[index]), expected[index]):
                wrong.append(index)

    callers = [threading.Thread(target=call, args=(index,)) for index in (0, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_thread_of_the_smallest_stack_loads_and_calls() -> None:
    program = random_program(3, wide=True)
    images = images_for(program, 4, 3)
    equal = []

    def load_and_call() -> None:
        runtime = NativeRuntime(program, threads=2)
        equal.append(np.array_equal(runtime(images), load_runtime(program, "numpy")(images)))

    usual = threading.stack_size(64 << 10)
    try:
        caller = threading.Thread(target=load_and_call)
        caller.start()
        caller.join()
    finally:
        threading.stack_size(usual)
    assert equal == [True]


SHORT_OF_THREADS = """
import os, resource, sys
import numpy as np
from intvit.errors import IntVitError
from intvit.runtime import load
folder = sys.argv[1]
runtime, images = load(folder + "/integer", threads=12), np.load(folder + "/images.npy")
size, most = int(open("/proc/self/statm").read().split()[0]), resource.getrlimit(resource.RLIMIT_AS)[1]
# The stacks of 12 threads are 2 or 8 MiB each.
resource.setrlimit(resource.RLIMIT_AS, (size * os.sysconf("SC_PAGE_SIZE") + (10 << 20), most))
try:
    runtime(images)
except IntVitError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
np.save(folder + "/scores.npy", runtime(images))
"""


@needs_proc
def test_threads_that_the_system_does_not_give_are_an_error_that_passes(tmp_path: Path) -> None:
    program = random_program(3)
    images = images_for(program, 1, 3)
    save_checkpoint(program, tmp_path / "integer")
    np.save(tmp_path / "images.npy", images)
    # In a process of its own: one that has ended threads keeps their stacks for others.
    command = [sys.executable, "-c", SHORT_OF_THREADS, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"the system gives only \d+ of 12 threads; use fewer", printed)
    assert np.array_equal(np.load(tmp_path / "scores.npy"), load_runtime(program, "numpy")(images))


@needs_proc
def test_idle_threads_sleep() -> None:
    def tasks() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    program = random_program(3)
    before = tasks()
    runtime = NativeRuntime(program, threads=4)
    assert tasks() == before  # they come with the first call
    runtime(images_for(program, 1, 3))
    workers = tasks() - before
    assert len(workers) == 3

    def states() -> set[str]:
        return {Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0] for task in workers}

    deadline = time.monotonic() + 20
    while states() != {"S"}:
        assert time.monotonic() < deadline, f"threads between calls are {states()}, not asleep"
        time.sleep(0.01)
    del runtime
    gc.collect()
    assert not workers & tasks()


@needs_proc
def test_memory_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 4096  # 16 MiB of weights
    plan: ExecutionPlan[Step] = ExecutionPlan()
    image = plan.tensor((1, size), np.dtype(np.uint8))
    values = plan.tensor((1, size), np.dtype(np.int8))
    scores = plan.tensor((size,), np.dtype(np.int32))
    weight, ones = np.ones((size, size), np.int8), np.ones(size, np.int64)
    constants = [weight, np.zeros(size, np.int32), ones, None, ones]
    plan.steps.append(Step(Kind.LINEAR, [image], values, [REQUANTIZED, -128, 127], constants))
    flat = values.seen_as(values.entries.reshape(-1))
    plan.steps.append(Step(Kind.REQUANTIZE, [flat], scores, [-(2**31), 2**31 - 1], [2 * ones, None, ones]))
    plan.input, plan.output = image.buffer, scores.buffer
    plan.place(share=True)
    before = resident()
    for _ in range(3):
        engine = Engine(load_library(None), plan, 1)
        engine.run(np.zeros((1, 1, size), np.uint8))
        assert engine.memory > size * size
        del engine
    assert resident() < before + size * size // 2


LOAD = """
import sys
from pathlib import Path
from intvit.runtime import load
load(sys.argv[2], path="scalar")

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))

before = own()
runtime = load(sys.argv[1], path="scalar")
print(own() - before, runtime.memory)
"""


def large_program() -> Program:
    """Of 8 MiB of weights."""
    return linear_program(np.random.default_rng(0).integers(-128, 128, (512, 16384), np.int8), 3)


@needs_proc
def test_of_its_own_a_process_takes_little_more_than_the_packed_weights(tmp_path: Path) -> None:
    save_checkpoint(large_program(), tmp_path / "large")
    save_checkpoint(random_program(3), tmp_path / "small")  # loaded first: all modules are there
    command = [sys.executable, "-c", LOAD, str(tmp_path / "large"), str(tmp_path / "small")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    own, memory = (int(number) for number in printed.split())
    size = (tmp_path / "large" / "weights.safetensors").stat().st_size
    assert size <= memory <= 1.1 * size
    assert own <= 1.5 * size


def test_a_loaded_runtime_reads_its_files_no_more(tmp_path: Path) -> None:
    program = large_program()
    save_checkpoint(program, tmp_path / "integer")
    runtime = load(tmp_path / "integer", threads=2)
    with (tmp_path / "integer" / "weights.safetensors").open("wb"):  # whoever copies over it empties it first
        images = images_for(program, 3, 1)
        assert holds_in_child(lambda: np.array_equal(runtime(images), load_runtime(program, "numpy")(images)))
