"""Every kernel compiled for a GPU that need not be there, at the shapes of a training step of DeiT-S of 256 images.

`table(launches, arch)` gives what the compiled code needs: a kernel that spills registers or multiplies without tensor
cores is slow, and no interpreter shows it.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from intvit.quant.triton_kernels.operators import LAUNCHERS, Launch, recorded

IMAGES, TOKENS, CHANNELS, HEADS, SIZE = 256, 197, 384, 6, 64
TOKEN_SHAPE, LOGIT_SHAPE = (IMAGES, TOKENS, CHANNELS), (IMAGES, 1, HEADS, TOKENS, TOKENS)

_TYPES = {
    torch.bool: "i1",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def _empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _calls() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """(label, operator, arguments) of every kernel as a step has it: 8 bits, a residual stream of 16, observed."""
    i8, u8, i16, i32, f32, bf16 = torch.int8, torch.uint8, torch.int16, torch.int32, torch.float32, torch.bfloat16
    one, many = _empty(1), _empty(CHANNELS)
    wide = (IMAGES, TOKENS, 3 * CHANNELS)
    hidden = (IMAGES, TOKENS, 4 * CHANNELS)
    qkv, logits = _empty(*wide, dtype=i8), _empty(*LOGIT_SHAPE, dtype=i8)
    total = _empty(*LOGIT_SHAPE[:-1], 1, dtype=i32)
    stream, scale = _empty(*TOKEN_SHAPE, dtype=i16), _empty(dtype=torch.float64)
    accumulators, bias = _empty(*TOKEN_SHAPE, dtype=i32), _empty(CHANNELS, dtype=i32)
    three = (_empty(*wide, dtype=i32), _empty(3 * CHANNELS, dtype=i32), _empty(3 * CHANNELS), _empty(3 * CHANNELS))
    yield "requantize qkv", "requantize", (*three, 8, 3, True)
    yield "add", "add", (accumulators, bias, stream, many, many, many, 16, True)
    for method, integers in {"exact": (16, 0, 0), "ivit": (1, 10, 0), "ibert": (1, 0, 3)}.items():
        affine = (None, many, many, many, 8, True)
        yield f"layernorm {method}", "layernorm", (stream, method, *integers, *affine)
    yield "attention_logits", "attention_logits", (qkv, HEADS, 1, one, one, 8, None, None, None, True)
    joined = (_empty(HEADS, TOKENS, TOKENS, dtype=i16), one, _empty(1, 1, TOKENS, TOKENS, dtype=torch.bool), True)
    yield "attention_logits bias", "attention_logits", (qkv, HEADS, 1, one, one, 8, *joined)
    yield "weights", "weights", (logits, _empty(256, dtype=u8))
    real = _empty(256, dtype=torch.float64)
    yield "probabilities", "probabilities", (logits, real, 8, "rounded")
    for dtype in (u8, i32):
        weights = _empty(*LOGIT_SHAPE, dtype=dtype)
        yield f"weighted_mean {_TYPES[dtype]}", "weighted_mean", (weights, qkv, total, one, one, 8, True)
    yield "weighted_requantize", "weighted_requantize", (_empty(*LOGIT_SHAPE, dtype=u8), qkv, one, one, 8, True)
    inner = _empty(*hidden, dtype=i8)
    yield "gelu", "gelu", (inner, _empty(256, dtype=i8))
    yield "gelu by maximum", "gelu", (inner, _empty(128, 256, dtype=i8))
    for dtype in (f32, bf16):
        name = _TYPES[dtype]
        gradient, d_hidden = _empty(*TOKEN_SHAPE, dtype=dtype), _empty(*hidden, dtype=dtype)
        d_logits, part = _empty(*LOGIT_SHAPE, dtype=dtype), _empty(IMAGES * HEADS, TOKENS, SIZE, dtype=dtype)
        yield f"mask {name}", "mask", (gradient, stream, 16)
        yield f"gelu_gradient {name}", "gelu_gradient", (d_hidden, inner, _empty(256, dtype=f32))
        yield f"softmax_gradient {name}", "softmax_gradient", (d_logits, logits, scale, 8)
        layer = (gradient, stream, None, scale, _empty(CHANNELS, dtype=f32), 1e-6, 16)
        yield f"layernorm_gradient {name}", "layernorm_gradient", layer
        yield f"dequantize {name}", "dequantize", (_empty(1536, CHANNELS, dtype=i8), _empty(1536, dtype=f32), dtype)
        yield f"split_heads {name}", "split_heads", (qkv, 3, HEADS, 1, dtype)
        yield f"merge_heads {name}", "merge_heads", (part, part, part, qkv, _empty(3), HEADS, 8)
    rows = IMAGES * TOKENS
    for inputs, outputs in ((CHANNELS, 3 * CHANNELS), (4 * CHANNELS, CHANNELS)):
        operands = (_empty(rows, inputs, dtype=i8), _empty(outputs, inputs, dtype=i8), _empty(outputs, dtype=i32))
        yield f"linear {inputs} to {outputs}", "linear", operands


def compile_cases() -> dict[str, Launch]:
    """By name, every kernel with the arguments, constants, warps and stages that a step launches it with."""
    cases = {}
    for label, name, arguments in _calls():
        with recorded() as launches:
            LAUNCHERS[name](*arguments)
        (cases[label],) = launches
    return cases


@dataclass(frozen=True)
class Compiled:
    """What a kernel's code needs on one architecture. spills: loads and stores of registers in local memory."""

    registers: int
    spills: int
    shared_bytes: int
    instructions: int
    tensor_core: str


def compiled(launch: Launch, arch: int) -> Compiled:
    """Compile for compute capability `arch`, for example 80 or 90, with the compiler that comes with triton."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        kind = "constexpr" if parameter.is_constexpr else _type_of(value)
        signature[parameter.name] = kind
        if kind == "constexpr":
            constants[index,] = value
        elif (isinstance(value, Tensor) or value % 16 == 0) and not parameter.do_not_specialize_on_alignment:
            attributes[index,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    usage = re.search(r"REG:(\d+)", _cuobjdump(built.asm["cubin"], "--dump-resource-usage"))
    assert usage is not None, "cuobjdump names no registers"
    code = _cuobjdump(built.asm["cubin"], "--dump-sass")
    counts = Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", code, re.MULTILINE))
    spills = sum(count for name, count in counts.items() if name.startswith(("LDL", "STL")))
    products = sorted(name for name in counts if re.match("I?G?MMA|IMMA|HG?MMA", name))
    return Compiled(int(usage[1]), spills, built.metadata.shared, sum(counts.values()), " ".join(products))


def _type_of(value: Any) -> str:
    """The type that Triton gives an argument; numbers of 1 and None become constants."""
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "constexpr" if value is None or value == 1 else "i32" if abs(value) < 1 << 31 else "i64"


def _cuobjdump(cubin: bytes, flag: str) -> str:
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([program, flag, file.name], capture_output=True, text=True, check=True).stdout


def table(archs: tuple[int, ...] = (80, 90), show: Callable[[str], None] = print) -> None:
    """One line for each kernel and architecture, as soon as it is compiled."""
    show(f"{'kernel':26} sm registers spills shared instructions tensor cores")
    for name, launch in compile_cases().items():
        for arch in archs:
            c = compiled(launch, arch)
            numbers = f"{c.registers:9} {c.spills:6} {c.shared_bytes:6} {c.instructions:12}"
            show(f"{name:26} {arch} {numbers} {c.tensor_core}")
