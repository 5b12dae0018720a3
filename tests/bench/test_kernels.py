"""The kernels of runtime=cuda compile for GPUs that are not here: products on tensor cores, no spilled registers."""

import functools
from collections.abc import Sequence

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

from intvit.bench.kernels import ARCHITECTURES, compile_all, compile_kernel, launched, wanting
from intvit.bench.runtime import RuntimeSettings, models
from intvit.commands.bench_kernels import main
from intvit.program import Program
from tests.support.programs import dense_program
from tests.support.random_programs import random_program

# Of 65,536 registers of a multiprocessor: two blocks of 128 threads fit with 255, three with 168, eight with 64.
REGISTERS = {
    "linear": 255,
    "linear_turned": 128,
    "attention": 255,
    "matmul": 128,
    "layernorm": 64,
    "gelu_by_maximum": 32,
    "gather": 32,
    "patches": 32,
    "requantize": 64,
}


@functools.cache
def program_of(model: str, preset: str) -> Program:
    return models(RuntimeSettings(model, preset, batch=1, threads=1, rounds=1))[1]


def problems(program: Program, architectures: Sequence[int]) -> list[str]:
    found = []
    for figures in compile_all(program, 128, architectures):
        found += wanting(figures)
        if figures.registers > REGISTERS[figures.kernel]:
            found.append(f"{figures.kernel} {figures.variant} on sm_{figures.arch}: {figures.registers} registers")
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_small_program_compiles_with_its_products_on_tensor_cores(arch: int) -> None:
    sources = launched(random_program(4, wide=True), 2)
    by_name = {source.kernel.fn.__name__: source for source in sources}
    for name in ("linear", "linear_turned", "attention"):
        figures = compile_kernel(by_name[name], arch)
        assert wanting(figures) == []
        assert figures.tensor_cores.startswith("IGMMA" if arch == 90 else "IMMA")
        assert 0 < figures.registers <= 255


def test_labels_compile_within_few_registers() -> None:
    sources = launched(dense_program(11, (3, 2), 16, ("upsample", "argmax")), 2)
    (labels,) = (source for source in sources if source.kernel.fn.__name__ == "labels")
    assert 0 < compile_kernel(labels, 90).registers <= 64


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("model", "preset"),
    [("deit_s", "ivit8"), ("deit_s", "lut8"), ("deit_s", "w4a8"), ("deit_s", "ivit_paper"), ("swin_t", "ibert8")],
)
def test_every_kernel_of_a_model_keeps_its_registers(model: str, preset: str, arch: int) -> None:
    assert problems(program_of(model, preset), [arch]) == []


@pytest.mark.slow
def test_the_command_prints_the_kernels_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "deit_t", "--quant", "lut8", "--batch", "1", "--arch", "90"]) == 0
    printed = capsys.readouterr().out
    assert "linear_turned" in printed
    assert "IGMMA" in printed
