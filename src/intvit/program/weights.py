"""weights.safetensors: the constants of a program, integers only, 4-bit ones packed two to a byte.

Reading checks the header (names, types, shapes, sizes) against program.json before it allocates anything.
"""

import hashlib
import json
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from intvit.program.document import Declaration
from intvit.program.program import Constant, ProgramError, container

FILE = "weights.safetensors"
PACKED_BITS = 4  # constants up to this width are packed
LEAST_MAPPED = 1 << 16  # bytes of a constant that stays in the file, mapped, until it is used
_NAMES = {
    np.dtype(f"{kind}int{size}"): f"{kind.upper() or 'I'}{size}" for kind in ("", "u") for size in (8, 16, 32, 64)
}
_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library
_POINTER = b"version https://git-lfs"  # what lies in a file's place in a clone without Git LFS


def pack(array: np.ndarray) -> np.ndarray:
    """Integers of at most 4 bits -> uint8 [ceil(n/2)]: flattened, low nibble first, two's complement, odd end 0.

    >>> pack(np.array([1, -1, 7])).tolist()
    [241, 7]
    """
    nibbles = array.reshape(-1).astype(np.int64) & 15
    nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.int64))
    return (nibbles[0::2] | nibbles[1::2] << 4).astype(np.uint8)


def unpack(packed: np.ndarray, shape: tuple[int, ...], signed: bool) -> np.ndarray:
    """The inverse of `pack`: int8 (signed) or uint8 of the shape."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: prod(shape)].reshape(shape)
    return ((nibbles ^ 8).astype(np.int8) - 8).astype(np.int8) if signed else nibbles


def write(constants: dict[str, Constant], path: Path) -> dict[str, Any]:
    """Write the file; return its entry for program.json (file, bytes, sha256)."""
    arrays = {}
    for name, constant in constants.items():
        if constant.bits <= PACKED_BITS:
            arrays[name] = pack(constant.array)
        else:
            arrays[name] = np.ascontiguousarray(constant.array, container(constant.bits, constant.signed))
    data = save(arrays)
    path.write_bytes(data)
    return {"file": FILE, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read(path: Path, declarations: dict[str, Declaration], entry: dict[str, Any]) -> dict[str, Constant]:
    """The constants that program.json declares. `entry`: the file's entry there. Raises ProgramError.

    Large ones are read-only views of the file, which must stay as it is while they are used; replacing it, as
    `save_checkpoint` does, leaves them whole.
    """
    size = path.stat().st_size
    if entry.get("file") != FILE or type(entry.get("bytes")) is not int or type(entry.get("sha256")) is not str:
        raise ProgramError(f"program.json: 'weights' must give file ({FILE!r}), bytes and sha256; export again")
    with path.open("rb") as file:
        pointer = file.read(len(_POINTER)) == _POINTER
    if pointer:
        raise ProgramError(f"{FILE} is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that")
    if size != entry["bytes"]:
        kind = "truncated" if size < entry["bytes"] else "not the one that was saved"
        raise ProgramError(
            f"{FILE} has {size} bytes, program.json expects {entry['bytes']}: the file is {kind}; copy it again"
        )
    spans, start = _spans(path, size, declarations)
    if _sha256(path) != entry["sha256"]:
        raise ProgramError(
            f"{FILE} does not have the sha256 that program.json states: it was changed; copy or export it again"
        )
    constants = {}
    mapped = np.memmap(path, np.uint8, "r")
    for name, declared in declarations.items():
        first, stop = (start + place for place in spans[name])
        data = np.asarray(mapped[first:stop])
        dtype, _ = _storage(declared)
        if len(data) < LEAST_MAPPED or first % dtype.itemsize:
            data = data.copy()
        array = data.view(dtype.newbyteorder("<")).astype(dtype, copy=False)
        if declared.bits <= PACKED_BITS:
            array = unpack(array, declared.shape, declared.signed)
        constants[name] = Constant(array.reshape(declared.shape), declared.bits, declared.signed)
    return constants


def _storage(declared: Declaration) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of the constant in the file."""
    if declared.bits <= PACKED_BITS:
        return np.dtype(np.uint8), ((prod(declared.shape) + 1) // 2,)
    return container(declared.bits, declared.signed), declared.shape


def _spans(path: Path, size: int, declarations: dict[str, Declaration]) -> tuple[dict[str, tuple[int, int]], int]:
    """Byte range of each constant, relative to the start of the data, and that start; all checked."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ProgramError(
                f"{FILE}: the header does not fit the file of {size} bytes; it is damaged, copy or export it again"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ProgramError(
                f"{FILE}: the header is not JSON; the file is damaged, copy or export it again"
            ) from None
    header = dict(header) if isinstance(header, dict) else {}
    header.pop("__metadata__", None)
    for name in header.keys() - declarations.keys():
        raise ProgramError(
            f"{FILE}: holds {name!r}, which program.json does not declare; the two files do not belong together"
        )
    spans = {}
    for name, declared in declarations.items():
        dtype, stored = _storage(declared)
        expected = {"dtype": _NAMES[dtype], "shape": list(stored)}
        found = header.get(name)
        if not isinstance(found, dict):
            raise ProgramError(f"{FILE}: constant {name!r} is missing; the file does not belong to this program.json")
        for key, value in expected.items():
            if found.get(key) != value:
                raise ProgramError(
                    f"{FILE}: constant {name!r} has {key} {found.get(key)!r}, program.json expects {value!r}"
                )
        span = found.get("data_offsets")
        if not (isinstance(span, list) and len(span) == 2 and all(type(offset) is int for offset in span)):
            raise ProgramError(f"{FILE}: constant {name!r} has no valid data_offsets; the file is damaged")
        needed = prod(stored) * dtype.itemsize
        if not (span[0] >= 0 and span[1] - span[0] == needed and span[1] <= size - 8 - length):
            raise ProgramError(
                f"{FILE}: constant {name!r} needs {needed} bytes, its place {span} does not hold them; damaged file"
            )
        spans[name] = (span[0], span[1])
    for (_, stop), (start, _) in pairwise(sorted(span for span in spans.values() if span[0] < span[1])):
        if start < stop:
            raise ProgramError(f"{FILE}: two constants share the bytes from {start} to {stop}; damaged file")
    return spans, 8 + length


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
