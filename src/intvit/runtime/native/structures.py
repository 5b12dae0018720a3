"""The plan as the structures of abi.h."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from intvit.runtime.native.steps import Step
from intvit.runtime.plan import ExecutionPlan, Tensor

ABI = 3  # intvit.h
_RANK, _INPUTS, _CONSTANTS, _ATTRIBUTES = 16, 5, 8, 12  # abi.h
_TYPES = {np.dtype(name): i for i, name in enumerate(("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"))}


class _View(ctypes.Structure):
    _fields_ = (
        ("buffer", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("offset", ctypes.c_int64),
        ("shape", ctypes.c_int64 * _RANK),
        ("strides", ctypes.c_int64 * _RANK),
    )


class _Array(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("padding", ctypes.c_int32),
    )


class StepDescription(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("inputs", _View * _INPUTS),
        ("output", _View),
        ("attributes", ctypes.c_int64 * _ATTRIBUTES),
        ("constants", _Array * _CONSTANTS),
    )


class BufferDescription(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("bytes", ctypes.c_int64), ("data", ctypes.c_void_p))


def describe(plan: ExecutionPlan[Step]) -> tuple[Any, Any, list[np.ndarray]]:
    """The plan as C structures, and the arrays that they point to."""
    buffers, steps = (BufferDescription * len(plan.buffers))(), (StepDescription * len(plan.steps))()
    kept: list[np.ndarray] = []
    for target, buffer in zip(buffers, plan.buffers, strict=True):
        data = None if buffer.data is None else buffer.data.ctypes.data
        target.offset, target.bytes, target.data = buffer.offset, buffer.size, data
    for target, step in zip(steps, plan.steps, strict=True):
        target.kind = step.kind
        inputs = step.inputs + [None] * (_INPUTS - len(step.inputs))
        for view, tensor in zip((*target.inputs, target.output), (*inputs, step.output), strict=True):
            _fill_view(view, tensor)
        target.attributes[: len(step.attributes)] = step.attributes
        for slot, array in zip(target.constants, step.constants, strict=False):
            if array is not None:
                kept.append(np.ascontiguousarray(array))
                slot.data, slot.count, slot.type = kept[-1].ctypes.data, array.size, _TYPES[array.dtype]
    return buffers, steps, kept


def _fill_view(view: _View, tensor: Tensor | None) -> None:
    if tensor is None:
        view.buffer = -1
        return
    rank = tensor.entries.ndim
    view.buffer, view.type, view.rank, view.offset = tensor.buffer, _TYPES[tensor.dtype], rank, tensor.offset
    view.shape[:rank], view.strides[:rank] = tensor.entries.shape, tensor.entries.strides
