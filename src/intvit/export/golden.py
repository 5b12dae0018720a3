"""Golden vectors for test benches, one file for each tensor: every image's input and outputs, and the parameters.

Each as .npy (integers) and as .hex: one word a line in row-major order, two's complement, as many digits as the width
in the file's name (`NAME.8.hex`) needs, which is what $readmemh reads. `manifest.json` lists them. The integers are the
numpy runtime's, which every runtime equals.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from intvit.arguments import as_path
from intvit.errors import IntVitError
from intvit.files import replacing_folder, write_json
from intvit.program import Program, container, load_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.images import read_images

MANIFEST, PARAMETERS = "manifest.json", "parameters"
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def golden(
    folder: str | os.PathLike[str],
    images: np.ndarray | Sequence[str | Path],
    out: str | os.PathLike[str],
    *,
    values: Sequence[str] = ("*",),
) -> dict[str, Any]:
    """Writes golden vectors of an integer checkpoint into the new or empty folder `out`; returns manifest.json.

    images: photos or .npy files of `read_images`, or an array uint8 (B, C, H, W). values: which operators' outputs, by
    name, * and ? allowed. program.json is copied, so that `out` says which operator reads what.

    Raises ProgramError (an IntVitError) for a folder that holds no whole checkpoint, IntVitError for a file that is no
    image, a name without an operator, and if `out` is not empty; nothing is written then, nor where the disk is full.

    >>> golden(folder, images, out, values=["head"])["images"][0][-1]["shape"]
    [10]
    """
    program, target = load_checkpoint(folder), as_path("out", out)
    if isinstance(values, str):
        raise IntVitError(f"values={values!r}: expected a list of names, such as [{values!r}]")
    pixels, chosen = read_images(program, images), _chosen(program, values)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IntVitError(f"{target} exists and is not an empty folder; give a new one, nothing was written")
    with replacing_folder(target.absolute()) as fresh:
        manifest = write_golden(program, pixels, fresh, chosen)
        shutil.copyfile(Path(folder) / "program.json", fresh / "program.json")
    return manifest


def _chosen(program: Program, patterns: Sequence[str]) -> set[str]:
    """The operators' outputs whose names match. Raises IntVitError for a pattern without a match."""
    names = [operator.output for operator in program.operators]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise IntVitError(f"--values {pattern}: no operator has such a name; program.json lists them")
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def write_golden(program: Program, images: np.ndarray, out: Path, chosen: Collection[str]) -> dict[str, Any]:
    """Writes everything but program.json for uint8 images [B, C, H, W] into a folder; returns manifest.json's content.

    `chosen`: the operators' outputs to write, by name.
    """
    parameters = [
        {"name": name, **_write(out, PARAMETERS, name, constant.array, constant.bits, constant.signed)}
        for name, constant in program.constants.items()
    ]
    runtime, vectors = load_runtime(program, "numpy"), []
    for index, image in enumerate(images):
        entries = []
        for name, array in [(program.input, image[None]), *runtime.trace(image[None])]:
            if name in chosen or name == program.input:
                value = program.values[name]
                entries.append({"name": name, **_write(out, f"{index:04d}", name, array[0], value.bits, value.signed)})
        vectors.append(entries)
    manifest = {
        "format": "intvit-golden",
        "version": 1,
        "input": program.input,
        "output": program.output,
        "parameters": parameters,
        "images": vectors,
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def _write(out: Path, folder: str, name: str, array: np.ndarray, bits: int, signed: bool) -> dict[str, Any]:
    """Both files of a tensor; its entry in the manifest. Characters that file names cannot hold are percent-encoded."""
    file = f"{folder}/{quote(name, safe='')}"
    if len(file) > 200:
        raise IntVitError(f"the name {name[:40]!r}... is too long for a file")
    (out / folder).mkdir(parents=True, exist_ok=True)
    typed = array.astype(container(bits, signed))
    np.save(out / f"{file}.npy", typed)
    (out / f"{file}.{bits}.hex").write_bytes(hex_words(typed, bits))
    shape = list(array.shape)
    return {"bits": bits, "signed": signed, "shape": shape, "npy": f"{file}.npy", "hex": f"{file}.{bits}.hex"}


def hex_words(array: np.ndarray, bits: int) -> bytes:
    """One word a line, flattened, two's complement of `bits` bits, ceil(bits / 4) lower-case digits.

    >>> hex_words(np.array([-1, 7]), 5)
    b'1f\\n07\\n'
    """
    words = array.reshape(-1).astype(np.int64).view(np.uint64) & np.uint64(2**bits - 1)
    shifts = np.arange(4 * (-(-bits // 4) - 1), -1, -4, dtype=np.uint64)
    digits = _DIGITS[(words[:, None] >> shifts & np.uint64(15)).astype(np.int64)]
    return np.concatenate([digits, np.full((len(words), 1), ord("\n"), np.uint8)], 1).tobytes()
