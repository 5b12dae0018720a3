"""A program as a plan file, which the library opens without Python: intvit.h says how, abi.h what is in it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from intvit.files import write_bytes
from intvit.program.program import Program
from intvit.runtime.native.lowering import lower
from intvit.runtime.native.structures import ABI, describe
from intvit.runtime.plan import ALIGNMENT

MAGIC = b"intvit\n\0"


class _Header(ctypes.LittleEndianStructure):
    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("abi", ctypes.c_int32),
        ("input", ctypes.c_int32),
        ("output", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("buffer_count", ctypes.c_int64),
        ("step_count", ctypes.c_int64),
    )


def save_plan(program: Program, file: Path) -> None:
    """Write a checked program's plan: equal bytes for equal programs, for every machine with 64 bits, little-endian."""
    write_bytes(file, plan_bytes(program))


def plan_bytes(program: Program) -> bytes:
    """The content of a plan file."""
    plan = lower(program, fuse=True)
    buffers, steps, arrays = describe(plan)
    arrays = [*arrays, *(buffer.data for buffer in plan.buffers if buffer.data is not None)]
    header = _Header(MAGIC, ABI, plan.input, plan.output, 0, len(buffers), len(steps))
    size = sum(ctypes.sizeof(part) for part in (header, buffers, steps))
    places: dict[int | None, int] = {None: 0}  # by address
    content: list[np.ndarray] = []
    for array in arrays:
        address = array.ctypes.data
        if address not in places:
            size += -size % ALIGNMENT
            places[address] = size
            size += array.nbytes
            content.append(array)
    for buffer in buffers:
        buffer.data = places[buffer.data]
    for step in steps:
        for slot in step.constants:
            slot.data = places[slot.data]
    result = bytearray(size)
    start = 0
    for part in (header, buffers, steps):
        result[start : start + ctypes.sizeof(part)] = bytes(part)
        start += ctypes.sizeof(part)
    for array in content:
        start = places[array.ctypes.data]
        result[start : start + array.nbytes] = array.tobytes()
    return bytes(result)
