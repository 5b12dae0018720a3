"""The files of a C model as text: model.h, model.c, and the constants as arrays, or as bytes behind a header."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import numpy as np

from intvit import __version__
from intvit.export.c.steps import ROWS, AnyStep, Argument, Constants, Kernel, Parameter, RowLoop, Step
from intvit.export.c.template import HELPERS, c_type, short
from intvit.program.program import Program
from intvit.runtime.plan import ExecutionPlan

Weights = Literal["array", "incbin", "bin"]
RESERVED = {
    *("auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern"),
    *("float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed"),
    *("sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while"),
    *("memcpy", "memset", "memcmp", "arena", "image", "scores", "weights", "row", "rows"),
    *("main", "model_run", "model_load", "model_classes"),
}
HEADER_BYTES = 32  # of weights.bin: the number 1 in 32 bits, then the first bytes of the digest of what follows


class Source:
    """The texts of one plan. `arena`: bytes of memory that the model keeps."""

    def __init__(self, program: Program, plan: ExecutionPlan[AnyStep], weights: Weights) -> None:
        self.program, self.plan, self.weights = program, plan, weights
        self.names = {*RESERVED, *HELPERS}
        self.constants: dict[tuple[str, bytes], tuple[str, np.ndarray, int]] = {}  # content -> name, array, offset
        self.size = HEADER_BYTES
        self.kernels: dict[str, Kernel] = {}
        self.descriptors: list[str] = []
        self.buffer_names = {plan.input: "image", plan.output: "scores"}
        used = [plan.buffers[tensor.buffer] for step in plan.steps for tensor in step.tensors]
        self.arena = max((buffer.offset + buffer.size for buffer in used if buffer.data is None), default=0)
        for step in plan.steps:
            for inner in step.steps if isinstance(step, RowLoop) else [step]:
                self.kernels.setdefault(inner.kernel.name, inner.kernel)
        self.names |= {name + end for name in self.kernels for end in ("", "_weights")}
        self.body = [self._step(step) for step in plan.steps]
        self.digest = hashlib.sha256(self._data()).digest()[: HEADER_BYTES - 4]

    # ------------------------------------------------------------------------------------------------- constants

    def _name(self, text: str) -> str:
        """An identifier that is not taken yet: blocks.0.attn.qkv -> blocks_0_attn_qkv."""
        stem = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "unnamed"
        stem = stem if re.match("[a-z]", stem) and not stem.endswith("_t") else f"layer_{stem}"
        name, number = stem, 1
        while name in self.names:
            number += 1
            name = f"{stem}_{number}"
        self.names.add(name)
        return name

    def _constant(self, role: str, array: np.ndarray) -> str:
        """C for the address of the array, or in weights.bin for its offset; equal arrays are kept once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self._name(f"model.{role}"), array, self.size
            self.size += -(-array.nbytes // 8) * 8  # of 64-bit integers, too
        name, _, offset = self.constants[key]
        return f"{offset}" if self.weights == "bin" else name

    def _data(self) -> bytes:
        """All constants, little-endian, each at its offset less the header."""
        parts = []
        for _, array, _ in self.constants.values():
            data = array.astype(array.dtype.newbyteorder("<")).tobytes()
            parts.append(data + bytes(-len(data) % 8))
        return b"".join(parts)

    def binary(self) -> bytes:
        """weights.bin."""
        return (1).to_bytes(4, "little") + self.digest + self._data()

    def array_file(self) -> str:
        """weights.c."""
        parts = ['/* Constants of the model. */\n#include "weights.h"\n']
        for name, array, _ in self.constants.values():
            numbers = np.char.mod("%d", array.reshape(-1)) if array.dtype != np.int64 else _wide(array)
            lines = [", ".join(numbers[i : i + 24]) for i in range(0, len(numbers), 24)]
            parts.append(
                f"const {c_type(array.dtype)} {name}[{array.size}] = {{\n    " + ",\n    ".join(lines) + "};\n"
            )
        return "\n".join(parts)

    def assembler_file(self) -> str:
        """weights.S for GNU assemblers: the names of weights.h in the bytes of weights.bin."""
        lines = ["/* Constants of the model, the bytes of weights.bin (little-endian). */", "    .section .rodata"]
        lines += ["    .balign 8"]
        for name, array, offset in self.constants.values():
            lines += [f"    .global {name}", "    .balign 8", f"{name}:"]
            lines += [f'    .incbin "weights.bin", {offset}, {array.nbytes}']
        return "\n".join([*lines, '    .section .note.GNU-stack, "", %progbits', ""])

    def weights_header(self) -> str:
        """weights.h."""
        declared = [
            f"extern const {c_type(array.dtype)} {name}[{array.size}];" for name, array, _ in self.constants.values()
        ]
        return "\n".join(["#include <stdint.h>", "", *declared, ""])

    # ------------------------------------------------------------------------------------------------- steps

    def _step(self, step: AnyStep) -> str:
        if isinstance(step, Step):
            return f"    /* {_comment(step.name)} */\n    {self._call(step, None)}"
        names = ", ".join(_comment(inner.name) for inner in step.steps)
        lines = [f"    /* {names} */", f"    for (row = 0; row < {step.rows}; row += {ROWS}) {{"]
        lines.append(f"        rows = block_rows({step.rows} - row);")
        lines += [f"        {self._call(inner, step)}" for inner in step.steps]
        return "\n".join([*lines, "    }"])

    def _call(self, step: Step, loop: RowLoop | None) -> str:
        name = self._name(step.name)
        fields = [f"    .{key} = {self._value(value)}," for key, value in step.parameters.items()]
        self.descriptors.append(f"static const struct {step.kernel.name} {name} = {{\n" + "\n".join(fields) + "\n};")
        arguments = [self._address(argument, loop) for argument in step.arguments]
        if step.rows:
            if step.kernel.name.startswith("patches_"):
                arguments.append("row" if loop else "0")
            arguments.append("rows" if loop else str(step.rows))
        return f"{step.kernel.name}(&{name}, {', '.join(arguments)});"

    def _value(self, value: Parameter) -> str:
        if isinstance(value, Constants):
            return self._constant(value.role, value.array)
        if isinstance(value, tuple):
            return "{" + ", ".join(map(str, value)) + "}"
        if abs(value) < 2**31:
            return str(value)
        return f"INT64_C({value})"

    def _address(self, argument: Argument, loop: RowLoop | None) -> str:
        tensor = argument.tensor
        buffer = self.plan.buffers[tensor.buffer]
        offset = tensor.offset
        if tensor.buffer in self.buffer_names:
            base = self.buffer_names[tensor.buffer]
        elif buffer.data is not None:
            named = (name for name, other in self.plan.values.items() if other.buffer == tensor.buffer)
            base = self._constant(next(named, "mask"), buffer.data)
            if self.weights == "bin":
                base = f"(const {c_type(tensor.dtype)} *)(const void *)(weights + {base})"
        else:
            base = f"arena.{short(tensor.dtype)}"
            offset += buffer.offset // tensor.dtype.itemsize
        moves = loop is not None and argument.row and tensor.buffer not in loop.local
        return " + ".join([base, *[str(offset)] * (offset > 0), *[f"row * {argument.row}"] * bool(moves)])

    # ------------------------------------------------------------------------------------------------- files

    def header(self) -> str:
        """model.h."""
        channels, height, width = self.program.values[self.program.input].shape
        classes = "extern const char *const model_classes[MODEL_CLASSES];" if self.program.classes else ""
        return _HEADER.format(
            version=__version__,
            channels=channels,
            height=height,
            width=width,
            scores=int(np.prod(self.program.values[self.program.output].shape)),
            classes_count=self.program.num_classes,
            meaning=_MEANING[self.program.form],
            arena=self.arena,
            constants=len(self._data()),
            load=_LOAD if self.weights == "bin" else "",
            classes=classes,
        )

    def code(self) -> str:
        """model.c."""
        kernels = "\n\n".join(self._resolved(kernel.text) for kernel in self.kernels.values())
        body = "\n".join(self.body)
        used: list[str] = []
        text = kernels + body
        for name, helper in reversed(HELPERS.items()):
            if re.search(rf"\b{name}\b", text):
                used.insert(0, helper)
                text += helper
        parts = ["/* The model of model.h: what it computes, layer by layer, stands at the end. */"]
        library = self.weights == "bin" or re.search(r"\bmem(cpy|set)\b", text)
        own = "" if self.weights == "bin" else '\n#include "weights.h"'
        parts.append("#include <string.h>\n" * bool(library) + '#include "model.h"' + own)
        parts.append(self._arena())
        if self.weights == "bin":
            digest = ", ".join(str(byte) for byte in self.digest)
            parts.append(_LOADING.replace("DIGEST", digest).replace("COUNT", str(len(self.digest))))
        parts += [*used, kernels, "\n\n".join(self.descriptors)]
        if self.program.classes:
            names = ",\n    ".join(map(_text, self.program.classes))
            parts.append(f"const char *const model_classes[MODEL_CLASSES] = {{\n    {names}}};")
        rows = "    int32_t row, rows;\n" if any(isinstance(step, RowLoop) for step in self.plan.steps) else ""
        parts.append(_RUN.replace("ROWS;\n", rows).replace("BODY", body))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _resolved(self, text: str) -> str:
        if self.weights != "bin":
            text = re.sub(r"CONSTANT\((\w+)\) ", r"const \1 *", text)
            return re.sub(r"READ\(\w+, ([^)]*)\)", r"\1", text)
        text = re.sub(r"CONSTANT\((\w+)\) (\w+);", r"int32_t \2; /* offset of \1 */", text)
        return re.sub(r"READ\((\w+), ([^)]*)\)", r"(const \1 *)(const void *)(weights + \2)", text)

    def _arena(self) -> str:
        used = {tensor.dtype for step in self.plan.steps for tensor in step.tensors}
        types = sorted(used, key=lambda dtype: (dtype.itemsize, dtype.kind))
        size = max(8, -(-self.arena // 8) * 8)
        fields = "\n".join(f"    {c_type(dtype)} {short(dtype)}[{size // dtype.itemsize}];" for dtype in types)
        return f"static union {{\n{fields}\n    int64_t aligned;\n}} arena;"


def _comment(name: str) -> str:
    return re.sub(r"[^\w.,:+ -]", "_", name, flags=re.ASCII)


def _text(name: str) -> str:
    """A string literal of C: what is not plain ASCII as the octal bytes of UTF-8."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in name.encode()) + '"'


def _wide(array: np.ndarray) -> np.ndarray:
    return np.array([f"INT64_C({number})" for number in array.reshape(-1)])


_LOAD = """
/* Where weights.bin lies, in memory and at a multiple of 8. 0: taken; -1: not those bytes, or another byte order. */
int model_load(const void *bytes);
"""
_MEANING = {
    "scores": "The highest score is the model's class.",
    "dense_scores": "scores: of every class at every pixel, row by\n   row, a class after the other.",
    "labels": "scores: in place of those the class of every\n   pixel, row by row.",
}
_HEADER = """\
/* A vision transformer in integers, by intvit {version}: uint8 pixels in, class scores out, to the bit those of the
   trained model. No heap, no floating point, no state but the arena: one call at a time. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_CHANNELS {channels}
#define MODEL_HEIGHT {height}
#define MODEL_WIDTH {width}
#define MODEL_IMAGE (MODEL_CHANNELS * (int32_t)MODEL_HEIGHT * MODEL_WIDTH)
#define MODEL_SCORES {scores}
#define MODEL_CLASSES {classes_count}
#define MODEL_ARENA {arena} /* bytes of memory that the model keeps */
#define MODEL_CONSTANTS {constants} /* bytes of constants */

#ifdef __cplusplus
extern "C" {{
#endif
{load}
/* image: channels first, rows of pixels as decoded, 0 to 255. {meaning} */
void model_run(const uint8_t image[MODEL_IMAGE], int32_t scores[MODEL_SCORES]);
{classes}

#ifdef __cplusplus
}}
#endif

#endif
"""
_LOADING = """\
static const uint8_t *weights;

int model_load(const void *bytes)
{
    static const uint8_t digest[COUNT] = {DIGEST};
    const int32_t *one = bytes;
    if (*one != 1 || memcmp(one + 1, digest, COUNT) != 0)
        return -1;
    weights = bytes;
    return 0;
}"""
_RUN = """\
void model_run(const uint8_t image[MODEL_IMAGE], int32_t scores[MODEL_SCORES])
{
ROWS;
BODY
}"""
