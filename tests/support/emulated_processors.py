"""The native runtime for other processors than this one: cross-compiled with examples/run_plan.c, run by QEMU.

Needs Debian's g++-aarch64-linux-gnu or g++-riscv64-linux-gnu, and qemu-user. The path `avxvnni` runs here with the
same instructions of AVX-512, where this machine has those.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from intvit.program import Program
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.plan_file import plan_bytes
from tests.support.fuzz_native import AVXVNNI, LIMITS, SANITIZERS

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_plan.c"
FLAGS = ["-fwrapv", "-pthread", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]


@dataclass(frozen=True)
class Target:
    """A path: compiler, flags, and the words before the program that emulate a processor with it and one without."""

    compiler: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    sanitizers: tuple[str, ...] = ("-g", "-DINTVIT_DEBUG", *SANITIZERS)


TARGETS = {
    "neon": Target(
        "aarch64-linux-gnu-gcc",
        ("-march=armv8.2-a+dotprod",),
        ("qemu-aarch64", "-cpu", "neoverse-n1"),  # dot products, no matrix products
        ("qemu-aarch64", "-cpu", "cortex-a53"),
    ),
    "neon-i8mm": Target(
        "aarch64-linux-gnu-gcc",
        ("-march=armv8.2-a+dotprod+i8mm",),
        ("qemu-aarch64", "-cpu", "max"),
        ("qemu-aarch64", "-cpu", "neoverse-n1"),
    ),
    # No sanitizers: Debian has no UBSan for RISC-V, and its AddressSanitizer does not find room in QEMU's memory.
    # Those of the machine at hand see this path in `fuzz_native --path scalar`.
    "scalar": Target("riscv64-linux-gnu-gcc", (), ("qemu-riscv64",), sanitizers=("-static",)),
    "avxvnni": Target("gcc", tuple(AVXVNNI)),
}


class Emulated:
    """run_plan for one of TARGETS. Skips the test where a tool is missing."""

    def __init__(self, path: str, folder: Path, level: str, *, sanitized: bool = False) -> None:
        self.target, self.program = TARGETS[path], folder / f"run_plan_{path}"
        self.emulator = self.target.emulator
        flags = [
            *FLAGS,
            level,
            *self.target.flags,
            *(self.target.sanitizers if sanitized else ["-static"]),
        ]
        if (
            sanitized and self.emulator and "-static" not in flags
        ):  # where Debian has the libraries of the other processor
            self.emulator += ("-L", f"/usr/{self.target.compiler.removesuffix('-gcc')}")
        for tool in (self.target.compiler, *self.target.emulator[:1]):
            if shutil.which(tool) is None:
                pytest.skip(f"no {tool} to compile the path {path} for another processor, or to run it")
        if path == "avxvnni" and "avx512" not in native_runtime.supported():
            pytest.skip("neither AVX-VNNI nor the instructions of AVX-512 that stand in for it")
        sources = [native_runtime.FOLDER / "library.cpp", EXAMPLE]
        command = [self.target.compiler, *flags, "-I", native_runtime.FOLDER, *sources]
        subprocess.run([*map(str, command), "-lstdc++", "-lm", "-o", str(self.program)], check=True)

    def __call__(self, program: Program, images: np.ndarray, threads: int = 1) -> np.ndarray:
        """The program's output, int32, of the images."""
        with tempfile.TemporaryDirectory() as folder:
            plan, pixels = Path(folder) / "model.plan", Path(folder) / "images.raw"
            plan.write_bytes(plan_bytes(program))
            pixels.write_bytes(images.tobytes())
            done = self.run(plan, pixels, threads)
        assert done.returncode == 0, f"{self.program.name}: exit code {done.returncode}, {done.stderr}"
        numbers = np.array([[int(score) for score in line.split()] for line in done.stdout.splitlines()], np.int32)
        return numbers.reshape(len(images), *program.values[program.output].shape)

    def run(self, *words: object, emulator: tuple[str, ...] | None = None) -> subprocess.CompletedProcess[str]:
        """The program's process under the path's emulator, or another one."""
        command = [*(self.emulator if emulator is None else emulator), str(self.program), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ASAN_OPTIONS": LIMITS})
