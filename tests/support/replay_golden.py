"""Replays a folder of golden vectors: every operator, from the hex files of its inputs and parameters alone.

`python -m tests.support.replay_golden DIR` shares no code with the package, which need not be installed: program.json
says what to compute, tests/runtime/big_integers.py computes it in Python integers. Prints the operators that it
compared; a difference ends it with an error.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tests.support import big_integers


def read_hex(folder: Path, entry: dict) -> np.ndarray:
    """Words of two's complement -> Python integers in the tensor's shape."""
    bits = int(entry["hex"].split(".")[-2])
    assert bits == entry["bits"]
    words = [int(line, 16) for line in (folder / entry["hex"]).read_text().splitlines()]
    if entry["signed"]:
        words = [word - 2**bits if word >> (bits - 1) else word for word in words]
    result = np.empty(len(words), object)
    result[:] = words
    return result.reshape(entry["shape"])


def replay(folder: Path) -> int:
    """Number of operators whose outputs were computed and found equal; raises AssertionError for one that differs."""
    manifest, program = (json.loads((folder / name).read_text()) for name in ("manifest.json", "program.json"))
    parameters = {entry["name"]: read_hex(folder, entry) for entry in manifest["parameters"]}
    compared = 0
    for entries in manifest["images"]:
        values = {entry["name"]: read_hex(folder, entry) for entry in entries}
        for entry in entries:
            assert np.array_equal(np.load(folder / entry["npy"]), values[entry["name"]]), entry["npy"]
        for operator in program["operators"]:
            if operator["output"] not in values or any(name not in values for name in operator["inputs"]):
                continue
            constants = {role: parameters[name] for role, name in operator["constants"].items()}
            bits = [program["values"][name]["bits"] for name in operator["inputs"]]
            inputs = [values[name] for name in operator["inputs"]]
            result = big_integers.evaluate(SimpleNamespace(**operator), inputs, constants, bits)
            assert np.array_equal(result, values[operator["output"]]), operator["name"]
            compared += 1
    return compared


if __name__ == "__main__":
    assert "intvit" not in sys.modules
    print(replay(Path(sys.argv[1])))
