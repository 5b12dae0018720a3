"""Builds the C export of a program with one of several compilers and runs it: its scores, image by image."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from intvit.export.c.files import write_c
from intvit.export.c.source import Weights
from intvit.program import Program

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Target:
    """A compiler with its options, and what runs its programs ("" for this machine)."""

    compiler: str
    options: tuple[str, ...]
    emulator: tuple[str, ...] = ()


TARGETS = {
    "gcc": Target("gcc", ("-O1", *SANITIZERS)),
    "clang": Target("clang", ("-O1", *SANITIZERS)),
    "aarch64": Target("aarch64-linux-gnu-gcc", ("-O2", "-static"), ("qemu-aarch64",)),
    "rv64": Target("riscv64-linux-gnu-gcc", ("-O2", "-static"), ("qemu-riscv64",)),
    "cortex-m7": Target(
        "arm-none-eabi-gcc",
        ("-O2", "-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=soft", "--specs=rdimon.specs", "-T", "mps2_an500.ld"),
        ("qemu-system-arm", "-M", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"),
    ),
}
SEMIHOSTING = ("-semihosting-config", "enable=on,target=native", "-kernel")


def need(*programs: str) -> None:
    """Skips the test unless the programs are there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")


def scores(program: Program, images: np.ndarray, folder: Path, target: str, weights: Weights = "array") -> np.ndarray:
    """The output, int64, of the exported program, built without a warning, on the target."""
    chosen = TARGETS[target]
    need(chosen.compiler, *chosen.emulator[:1])
    write_c(program, folder, weights=weights, main=True)
    if target == "cortex-m7":
        (folder / "mps2_an500.ld").write_text(MPS2_AN500)
        (folder / "main.c").write_text(BARE_MAIN)
        (folder / "images.bin").write_bytes(images.tobytes())
    sources = ["model.c", "main.c", *{"array": ["weights.c"], "incbin": ["weights.S"], "bin": []}[weights]]
    run([chosen.compiler, *STRICT, *chosen.options, "-o", "model", *sources], folder)
    numbers = read_scores(run([*chosen.emulator, *SEMIHOSTING * bool(chosen.emulator[1:]), "./model"], folder, images))
    return numbers.reshape(len(images), *program.values[program.output].shape)


def run(command: list[str], folder: Path, images: np.ndarray | None = None) -> str:
    """Its output. Raises AssertionError with what it said if it failed."""
    given = b"" if images is None else images.tobytes()
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    file = folder / "scores.txt"
    return file.read_text() if images is not None and file.exists() else done.stdout.decode()


def read_scores(text: str) -> np.ndarray:
    return np.array([[int(number) for number in line.split()] for line in text.splitlines()])


# QEMU's Cortex-M7 board: vectors and code at 0, data in the memory at 0x20000000, constants in the 16 MB at 0x60000000
MPS2_AN500 = """\
MEMORY
{
    CODE (rx) : ORIGIN = 0, LENGTH = 4M
    RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 4M
    CONSTANTS (r) : ORIGIN = 0x60000000, LENGTH = 16M
}
ENTRY(_start)
SECTIONS
{
    .text : { KEEP(*(.vectors)) *(.text*) *(.init) *(.fini) *libc*(.rodata*) } > CODE
    .exidx : { *(.ARM.exidx*) } > CODE
    .rodata : { *(.rodata*) } > CONSTANTS
    .data : { *(.data*) *(.init_array*) *(.fini_array*) } > RAM
    .bss : { __bss_start__ = .; *(.bss*) *(COMMON) __bss_end__ = .; } > RAM
    end = .; __end__ = .;
}
"""
BARE_MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include "model.h"

extern void _start(void);
__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {(void (*)(void))0x20400000, _start};
static uint8_t image[MODEL_IMAGE];
static int32_t scores[MODEL_SCORES];

int main(void)
{
    FILE *in = fopen("images.bin", "rb"), *out = fopen("scores.txt", "w");
    int32_t i;
    while (fread(image, 1, sizeof image, in) == sizeof image) {
        model_run(image, scores);
        for (i = 0; i < MODEL_SCORES; i++)
            fprintf(out, "%ld%c", (long)scores[i], i + 1 < MODEL_SCORES ? ' ' : '\\n');
    }
    fclose(out);
    exit(0);
}
"""
