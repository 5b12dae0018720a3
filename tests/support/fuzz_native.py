"""Damaged checkpoints and plans for the native runtime, under AddressSanitizer and UBSan: an error or an equal result.

    python -m tests.support.fuzz_native --cases 3000 [--path avx512]

Every case damages a small random program in one of five ways: bytes of its files; its JSON or its constants with the
checksum put right; the program after it was read; the plan that goes to the library, behind all checks of the program;
the bytes of a plan file. What loads is run and compared with the numpy runtime; a damaged plan must be refused or run.
Prints how many cases ended at which check. A crash ends the process with the sanitizer's report.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.program import Constant, Program, bounds, check, load_checkpoint, save_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.lowering import lower
from intvit.runtime.native.plan_file import plan_bytes
from intvit.runtime.native.runtime import Engine, NativeRuntime
from intvit.runtime.native.steps import Kind
from tests.support.random_programs import images_for, random_program

FLAGS = [
    "-std=c++17",
    "-g",
    "-fwrapv",
    "-shared",
    "-fPIC",
    "-pthread",
    "-DINTVIT_DEBUG",
    "-Wno-maybe-uninitialized",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
AVX512 = [f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni", "vbmi")]
AMX = [*AVX512, "-mamx-tile", "-mamx-int8", "-DINTVIT_EMULATE_AMX"]  # whose tiles' loads and stores the sanitizers see
AVXVNNI = ["-mavx2", "-mavxvnni", "-DINTVIT_EVEX"]  # with the same instructions of AVX-512
PATHS = {"scalar": [], "avx2": ["-mavx2"], "avxvnni": AVXVNNI, "avx512": AVX512, "amx": AMX}
LIMITS = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4000"  # leaks: the interpreter's own
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 31, 32, 62, 63, 64, 127, 128, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1)
EQUAL, RAN = "ran, equal to numpy", "plan accepted, ran"


def run_sanitized(cases: int, path: str, seed: int = 0) -> str:
    """Compile the library with sanitizers and fuzz it in a process of its own; what that printed."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise IntVitError("g++ is needed to compile the library with sanitizers")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(native_runtime.FOLDER) / "library.cpp"
        library = Path(folder) / f"{path}.so"
        level = "-O1" if cases > 500 else "-O0"  # few cases run sooner than -O1 compiles
        subprocess.run([compiler, *FLAGS, level, *SANITIZERS, *PATHS[path], source, "-o", library], check=True)
        preload = [
            subprocess.run(
                [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
            ).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        environment = os.environ | {
            "LD_PRELOAD": " ".join(preload),
            "ASAN_OPTIONS": LIMITS,
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        arguments = ["--cases", str(cases), "--path", path, "--seed", str(seed), "--libraries", folder]
        command = [sys.executable, "-m", "tests.support.fuzz_native", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done.stdout


def damaged_plan_file(whole: bytes, rng: random.Random) -> bytes:
    """Flipped or lost bytes, most of them in the first steps."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 2, 5])):
        data[rng.randrange(len(data) if rng.random() < 0.2 else 4000)] ^= 1 << rng.randrange(8)
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


class Fuzzer:
    """Damages one program after the other and counts where the cases end."""

    def __init__(self, path: str, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.ends: Counter[tuple[str, str]] = Counter()

    def run(self, cases: int, folder: Path) -> None:
        ways = (self.damage_bytes, self.damage_document, self.damage_program, self.damage_plan, self.damage_plan_file)
        for case in range(cases):
            if case % 40 == 0:
                self.program = random_program(self.random.randrange(400), wide=self.random.random() < 0.2)
                save_checkpoint(self.program, folder / "whole")
            way = ways[case % len(ways)]
            target = folder / "damaged"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder / "whole", target)
            self.ends[way.__name__, self.end(way, target)] += 1

    def end(self, way: Any, folder: Path) -> str:
        """The module of the check that refused the case, or what became of it."""
        try:
            return way(folder)
        except IntVitError as error:
            inner = (
                error.__context__ if isinstance(error.__context__, IntVitError) else error
            )  # loading adds the folder
            frames = [Path(frame.filename) for frame in traceback.extract_tb(inner.__traceback__)]
            own = [frame for frame in frames if "intvit" in frame.parts]
            native = "native library" if own[-1].parts[-2:] == ("native", "runtime.py") else None
            return "refused by " + (native or f"{own[-1].parent.name}/{own[-1].name}")

    def compare(self, program: Program) -> str:
        images = images_for(program, 2, 1)
        expected = load_runtime(program, "numpy")(images)
        scores = NativeRuntime(program, threads=self.random.choice([1, 3]), path=self.path)(images)
        if not np.array_equal(scores, expected):
            raise AssertionError(f"scores differ from numpy's: {program.provenance}")
        return EQUAL

    # ------------------------------------------------------------------------------------------------ five ways

    def damage_bytes(self, folder: Path) -> str:
        """Flipped, lost or doubled bytes of a file."""
        file = folder / self.random.choice(["program.json", "weights.safetensors"])
        data = bytearray(file.read_bytes())
        for _ in range(self.random.choice([1, 1, 4])):
            place = self.random.randrange(len(data))
            if self.random.random() < 0.7:
                data[place] ^= 1 << self.random.randrange(8)
            else:
                data[place : place + self.random.randrange(9)] = data[: self.random.randrange(9)]
        file.write_bytes(data)
        return self.compare(load_checkpoint(folder))

    def damage_document(self, folder: Path) -> str:
        """A changed entry of program.json, or changed bytes of the constants, with size and checksum put right."""
        document, weights = folder / "program.json", folder / "weights.safetensors"
        values = json.loads(document.read_text())
        if self.random.random() < 0.5:
            data = bytearray(weights.read_bytes())
            start = 8 + int.from_bytes(data[:8], "little") if self.random.random() < 0.8 else 0
            for _ in range(self.random.choice([1, 3, 20])):
                data[self.random.randrange(start, len(data))] = self.random.randrange(256)
            weights.write_bytes(data)
            values["weights"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        else:
            for _ in range(self.random.choice([1, 1, 2])):
                self.change(self.random.choice([values, values["operators"], values["values"], values["constants"]]))
        document.write_text(json.dumps(values))
        return self.compare(load_checkpoint(folder))

    def change(self, part: Any) -> None:
        """Change a random entry somewhere below `part`, in place."""
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            return
        key = self.random.choice(keys)
        inner = part[key]
        if isinstance(inner, dict | list) and inner and self.random.random() < 0.95:
            self.change(inner)
        elif self.random.random() < 0.1:
            part.pop(key)
        elif isinstance(inner, bool):
            part[key] = not inner
        elif isinstance(inner, int):
            part[key] = self.number(inner)
        else:
            part[key] = part[self.random.choice(keys)]

    def number(self, value: int) -> int:
        near = value + self.random.choice([-1, 1, value])
        return near if self.random.random() < 0.5 else self.random.choice(NUMBERS)

    def damage_program(self, folder: Path) -> str:
        """Attributes, constants or wiring changed after the file was read."""
        program = load_checkpoint(folder)
        index = self.random.randrange(len(program.operators))
        operator = program.operators[index]
        choice = self.random.random()
        if choice < 0.4 and operator.constants:
            name = self.random.choice(list(operator.constants.values()))
            old = program.constants[name]
            array = old.array.astype(np.int64)
            if array.size:
                array.flat[self.random.randrange(array.size)] = self.number(int(array.flat[0])) % 2**62
            program.constants[name] = Constant(array, old.bits, old.signed)
        elif choice < 0.7 and operator.attributes:
            attributes = {k: list(v) if isinstance(v, tuple) else v for k, v in operator.attributes.items()}
            self.change(attributes)
            program.operators[index] = replace(operator, attributes=attributes)
        else:
            inputs = [self.random.choice(list(program.values)) for _ in operator.inputs]
            program.operators[index] = replace(operator, inputs=tuple(inputs))
        check(program)
        bounds(program)
        return self.compare(program)

    def damage_plan(self, folder: Path) -> str:
        """A changed number of a step or buffer. Pointers and sizes of the caller's own arrays stay true."""
        plan = lower(self.program, fuse=self.random.random() < 0.7)
        original = native_runtime.describe

        def damaged(plan: Any) -> Any:
            buffers, steps, kept = original(plan)
            for _ in range(self.random.choice([1, 1, 2, 4])):
                step = steps[self.random.randrange(len(steps))]
                view = self.random.choice([*step.inputs, step.output])
                what = self.random.choice(["kind", "view", "alias", "axis", "attribute", "buffer", "constant"])
                if what == "kind":
                    step.kind = self.random.randrange(-1, len(Kind) + 1)
                elif what == "view":
                    name = self.random.choice(["buffer", "type", "rank", "offset"])
                    setattr(view, name, self.number(getattr(view, name)) % 2**31)
                elif what == "alias":  # a step, best one that moves bytes, reads what it writes, a few entries beside
                    moves = [step for step in steps if step.kind in (Kind.COPY, Kind.GATHER)]
                    step = self.random.choice(moves or [step])
                    step.inputs[0].buffer, step.inputs[0].offset = step.output.buffer, self.random.randrange(9)
                elif what == "axis":
                    array, axis = self.random.choice([view.shape, view.strides]), self.random.randrange(6)
                    array[axis] = ctypes.c_int64(self.number(array[axis])).value
                elif what == "attribute":
                    index = self.random.randrange(len(step.attributes))
                    step.attributes[index] = ctypes.c_int64(self.number(step.attributes[index])).value
                elif what == "buffer":
                    buffer = buffers[self.random.randrange(len(buffers))]
                    if not buffer.data:
                        buffer.offset = self.number(buffer.offset)
                        buffer.bytes = min(buffer.bytes, self.number(buffer.bytes))
                else:
                    other = steps[self.random.randrange(len(steps))]
                    step.constants[self.random.randrange(7)] = other.constants[self.random.randrange(7)]
            return buffers, steps, kept

        native_runtime.describe = damaged
        try:
            engine = Engine(native_runtime.load_library(self.path), plan, self.random.choice([1, 2]))
        finally:
            native_runtime.describe = original
        engine.run(images_for(self.program, 2, 1))
        return RAN

    def damage_plan_file(self, folder: Path) -> str:
        """Flipped or lost bytes of a plan file."""
        data = damaged_plan_file(plan_bytes(self.program), self.random)
        compiled, error = native_runtime.load_library(self.path), ctypes.create_string_buffer(500)
        engine = compiled.intvit_open(data, len(data), self.random.choice([1, 2]), error, len(error))
        if not engine:
            return "refused by native library"
        size, classes = compiled.intvit_image_bytes(engine), compiled.intvit_classes(engine)
        images, scores = np.zeros((2, size), np.uint8), np.zeros((2, classes), np.int32)
        compiled.intvit_run(engine, images.ctypes.data, 2, scores.ctypes.data, error, len(error))
        compiled.intvit_destroy(engine)
        return RAN


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.fuzz_native", description=__doc__.partition("\n\n")[2]
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--path", default="scalar", choices=list(PATHS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--libraries", type=Path, help="folder with the compiled library (default: compile it)")
    options = parser.parse_args()
    if options.libraries is None:
        print(run_sanitized(options.cases, options.path, options.seed), end="")
        return 0
    native_runtime.FOLDER = options.libraries
    fuzzer = Fuzzer(options.path, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer.run(options.cases, Path(folder))
    for (way, end), count in sorted(fuzzer.ends.items()):
        print(f"{way:<18}{count:>7}  {end}")
    print(f"{options.cases} cases, path {options.path}: no crash, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
