"""Triton kernels, compiled for a GPU that need not be here: registers, spills, shared memory, products.

What is compiled is what the cuda runtime launches for a program, with the same plan and tiles, on tensors of the meta
device; or what a training step launches.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime.cuda.lowering import lower
from intvit.runtime.cuda.runtime import Batch, Constants

ARCHITECTURES = (80, 90)  # compute capabilities times ten: A100, H100
# Kernels that run on tensor cores: of the runtime, then of training.
PRODUCTS = (
    *("linear", "linear_turned", "attention", "matmul"),
    *("attention_logits", "weighted_mean", "weighted_requantize"),
)


@dataclass(frozen=True)
class KernelFigures:
    """One kernel for one architecture. spills: instructions that move registers to memory and back.

    tensor_cores: the instruction of the product with the number of its places, "" where there is none. steps: how many
    steps of the plan are launches of it.
    """

    kernel: str
    variant: str
    steps: int
    arch: int
    warps: int
    registers: int
    spills: int
    shared: int
    instructions: int
    tensor_cores: str


def wanting(figures: KernelFigures) -> list[str]:
    """What is wrong with a compiled kernel, one line each: spilled registers, a product beside the tensor cores."""
    name = f"{figures.kernel} {figures.variant} on sm_{figures.arch}"
    problems = [f"{name}: {figures.spills} instructions spill registers"] if figures.spills else []
    if figures.kernel in PRODUCTS and not figures.tensor_cores:
        problems.append(f"{name}: its product does not run on int8 tensor cores")
    return problems


@dataclass(frozen=True)
class _Source:
    """A kernel with what decides its code: types, constants and alignments of its arguments."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    warps: int
    stages: int


def _check_compiler() -> None:
    try:
        from triton import knobs
    except ImportError:
        raise IntVitError(
            "kernels are compiled by Triton, which is not installed: pip install 'intvit[cuda]'"
        ) from None
    if knobs.runtime.interpret:
        raise IntVitError("TRITON_INTERPRET=1 is set: Triton interprets kernels and compiles none; unset it")


def launched(program: Program, batch: int) -> Counter[_Source]:
    """The kernels that the runtime launches for a batch of the program, with the number of their launches."""
    _check_compiler()
    from intvit.runtime.cuda.launch import Launch

    plan, meta = lower(program, fuse=True), torch.device("meta")
    steps = Batch(plan, Constants(plan, meta), batch)
    image = torch.empty((batch, *program.values[program.input].shape), dtype=torch.uint8, device=meta)
    launches = (steps.launch(index, image) for index in range(len(plan.steps)))
    return Counter(_source(launch) for launch in launches if isinstance(launch, Launch))


def _source(launch: Any) -> _Source:
    """What Triton would specialize the launch by."""
    signature, constants, aligned = [], [], []
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or isinstance(value, bool):
            kind = "constexpr"
        elif isinstance(value, torch.Tensor):
            kind = "*" + _type_name(value.dtype)
            if value.storage_offset() * value.element_size() % 16 == 0 and not parameter.do_not_specialize_on_alignment:
                aligned.append(name)
        elif isinstance(value, float):
            kind = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            kind = "constexpr"
        else:
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                aligned.append(name)
        signature.append((name, kind))
        if kind == "constexpr":
            constants.append((name, value))
    return _Source(
        launch.kernel, tuple(signature), tuple(constants), tuple(aligned), launch.warps, launch.stages
    )  # fmt: skip


def _type_name(dtype: torch.dtype) -> str:
    if dtype is torch.bfloat16:
        return "bf16"
    if dtype is torch.bool:
        return "i1"
    kind = np.dtype(str(dtype).removeprefix("torch."))
    return f"{kind.kind}{kind.itemsize * 8}".replace("f", "fp")


def compile_all(program: Program, batch: int, architectures: Sequence[int] = ARCHITECTURES) -> Iterator[KernelFigures]:
    """Figures of every kernel of the program for every architecture, as they are compiled."""
    for source, count in launched(program, batch).items():
        for arch in architectures:
            yield compile_kernel(source, arch, count)


def compile_training(architectures: Sequence[int] = ARCHITECTURES) -> Iterator[KernelFigures]:
    """Figures of every kernel of a training step of DeiT-S with 256 images, as they are compiled."""
    _check_compiler()
    from intvit.quant.triton_kernels.cases import compile_cases

    for label, launch in compile_cases().items():
        operator, _, variant = label.partition(" ")
        for arch in architectures:
            yield replace(compile_kernel(_source(launch), arch), kernel=operator, variant=variant)


def compile_kernel(source: _Source, arch: int, steps: int = 1) -> KernelFigures:
    """Compile for sm_`arch` and count the instructions."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = source.kernel.arg_names
    tree = ASTSource(
        fn=source.kernel,
        signature=dict(source.signature),
        constexprs={(names.index(name),): value for name, value in source.constants},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in source.aligned},
    )
    options = {"num_warps": source.warps, "num_stages": source.stages, "enable_fp_fusion": False}
    built = triton.compile(tree, target=GPUTarget("cuda", arch, 32), options=options)
    usage, code = _dumped(built.asm["cubin"])
    places = Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9_.x]+)", code, re.MULTILINE))
    products = {name: count for name, count in places.items() if name.startswith(("IGMMA", "IMMA"))}
    registers = re.search(r"REG:(\d+)", usage)
    return KernelFigures(
        kernel=source.kernel.fn.__name__,
        variant=_variant(source),
        steps=steps,
        arch=arch,
        warps=source.warps,
        registers=int(registers[1]) if registers else 0,
        spills=sum(count for name, count in places.items() if name.startswith(("LDL", "STL"))),
        shared=built.metadata.shared,
        instructions=sum(places.values()),
        tensor_cores=", ".join(f"{name} x{count}" for name, count in products.items()),
    )


def _variant(source: _Source) -> str:
    """What tells launches of a kernel apart: sizes and choices that are compiled into it."""
    shown = ("K", "C", "D", "MODE", "TABLE", "PACKED", "METHOD", "SOFTMAX", "BIAS", "MASK", "BM", "BN")
    constants = dict(source.constants)
    parts = []
    for name in shown:
        value = constants.get(name)
        if isinstance(value, str):
            parts.append(value)
        elif value is True:
            parts.append(name.lower())
        elif type(value) is int:
            parts.append(f"{name}={value}")
    return " ".join(parts)


def _dumped(cubin: bytes) -> tuple[str, str]:
    """Resources and instructions, by the tools that come with Triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        flags = ("--dump-resource-usage", "--dump-sass")
        usage, code = (subprocess.run([tool, f, file.name], capture_output=True, text=True).stdout for f in flags)
    return usage, code
