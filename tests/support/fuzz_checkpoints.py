"""Damaged and malicious checkpoints: random mutations of the files of a small one.

`mutate(folder, rng)` changes a checkpoint in place and says how: bytes of either file, the tree of program.json, the
header or the data of weights.safetensors, the latter also with size and sha256 put right, so that they get behind the
checksum. `python -m tests.support.fuzz_checkpoints --count 20000` tries as many and prints what came of them.
"""

import argparse
import hashlib
import json
import struct
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intvit.program import ProgramError, load_checkpoint, save_checkpoint
from intvit.runtime import load_runtime
from tests.support.random_programs import images_for, random_program

PROGRAM, WEIGHTS = "program.json", "weights.safetensors"
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    31,
    32,
    53,
    62,
    63,
    64,
    127,
    255,
    2**16,
    2**31 - 1,
    2**31,
    -(2**31),
    2**40,
    2**63,
    2**64,
]
NUMBERS += [10**30, 0.5, 1e300, -0.0]
TEXTS = [
    "",
    "image",
    "..",
    "../../etc/passwd",
    "/dev/zero",
    "a\0b",
    "C:\\x",
    "é" * 50,
    "x" * 5000,
    "\n\x1b[2J",
    "__proto__",
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [1] * 40, {"a": {"b": []}}]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 3000, '{"a":' * 3000, "1" * 5000, '"\\ud800"', "", "\xff"]
SHAPES = [
    [2**31 - 1],
    [2**31 - 1] * 16,
    [0],
    [0, 2**31 - 1, 2**31 - 1],
    [1] * 17,
    [-1],
    [2**16, 2**15],
    [1, 46000, 46000],
    [],
]


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything inside a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def pick(rng: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[int(rng.integers(len(options)))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, a stretch lost, doubled or overwritten, or the end cut off."""
    changed = bytearray(data)
    kind, place = int(rng.integers(5)), int(rng.integers(len(data)))
    length = int(rng.integers(1, 64))
    if kind == 0:
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del changed[place : place + length]
    elif kind == 2:
        changed[place:place] = changed[place : place + length]
    elif kind == 3:
        changed[place : place + length] = rng.bytes(min(length, len(data) - place))
    else:
        del changed[place:]
    return bytes(changed)


def bytes_of_program(folder: Path, rng: np.random.Generator) -> None:
    (folder / PROGRAM).write_bytes(flipped((folder / PROGRAM).read_bytes(), rng))


def bytes_of_weights(folder: Path, rng: np.random.Generator) -> None:
    (folder / WEIGHTS).write_bytes(flipped((folder / WEIGHTS).read_bytes(), rng))


def behind_the_checksum(folder: Path, rng: np.random.Generator) -> None:
    bytes_of_weights(folder, rng)
    seal(folder)


def seal(folder: Path) -> None:
    """Size and sha256 of the weights as they are now."""
    document, data = json.loads((folder / PROGRAM).read_text()), (folder / WEIGHTS).read_bytes()
    document["weights"] = {"file": WEIGHTS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / PROGRAM).write_text(json.dumps(document))


def header(folder: Path, rng: np.random.Generator) -> None:
    """The safetensors header: types, shapes, offsets, names; sealed."""
    data = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    for _ in range(int(rng.integers(1, 3))):
        name = pick(rng, tree)
        key = pick(rng, ["dtype", "shape", "data_offsets", "name", "swap", "share"])
        other = pick(rng, tree)
        if key == "name":
            tree[pick(rng, TEXTS)] = tree.pop(name)
        elif key == "swap":
            tree[name], tree[other] = tree[other], tree[name]
        elif key == "share":
            tree[name]["data_offsets"] = tree[other].get("data_offsets")
        elif key == "dtype":
            tree[name]["dtype"] = pick(rng, ["F32", "BF16", "I64", "U8", "I4", "BOOL", 3, None])
        elif key == "shape":
            tree[name]["shape"] = pick(rng, SHAPES)
        else:
            tree[name]["data_offsets"] = [pick(rng, NUMBERS), pick(rng, NUMBERS)]
    text = json.dumps(tree).encode()
    size = len(text) if rng.random() < 0.8 else int(pick(rng, [0, 2**63, 2**40, len(text) - 1, len(data)]))
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", size) + text + data[8 + length :])
    seal(folder)


def tree_of_program(folder: Path, rng: np.random.Generator) -> None:
    """Values of program.json replaced by others, of any type and size; keys lost, renamed, repeated."""
    text = (folder / PROGRAM).read_text()
    document = json.loads(text)
    every = list(places(document))
    for _ in range(int(rng.integers(1, 4))):
        path = pick(rng, every)
        try:
            parent, key = at(document, path[:-1]), path[-1]
            old = parent[key]
        except (KeyError, IndexError, TypeError):
            continue
        kind = int(rng.integers(8))
        if kind == 0:
            del parent[key]
        elif kind == 1:
            parent[key] = pick(rng, NUMBERS)
        elif kind == 2:
            parent[key] = pick(rng, TEXTS)
        elif kind == 3:
            parent[key] = pick(rng, OTHERS)
        elif kind == 4 and type(old) is int:
            parent[key] = old + int(rng.integers(-2, 3))
        elif kind == 5 and isinstance(parent, dict):
            parent[pick(rng, TEXTS)] = parent.pop(key)
        elif kind == 6:
            parent[key] = at(document, pick(rng, places(document)))
        elif isinstance(old, list):
            rng.shuffle(old)
    text = json.dumps(document)
    if rng.random() < 0.15:
        parts = text.split(",")
        parts[int(rng.integers(len(parts)))] += pick(rng, [", ", ": "]) + pick(rng, RAW)
        text = ",".join(parts)
    (folder / PROGRAM).write_text(text, encoding="utf-8", errors="surrogatepass")


def graph(folder: Path, rng: np.random.Generator) -> None:
    """Well-formed, but another program: inputs rewired, operators moved, repeated or lost, attributes and widths in
    their ranges, shapes at their limits, constants exchanged."""
    document = json.loads((folder / PROGRAM).read_text())
    operators, values, constants = document["operators"], document["values"], document["constants"]
    for _ in range(int(rng.integers(1, 3))):
        operator, other = pick(rng, operators), pick(rng, operators)
        kind = int(rng.integers(9))
        if kind == 0 and operator["inputs"]:
            operator["inputs"][0] = pick(rng, values)
        elif kind == 1:
            operators.insert(int(rng.integers(len(operators))), operators.pop(int(rng.integers(len(operators)))))
        elif kind == 2:
            operators.append(dict(other))
        elif kind == 3 and operator["attributes"]:
            key = pick(rng, operator["attributes"])
            operator["attributes"][key] = another(operator["attributes"][key], rng)
        elif kind == 4:
            entry = pick(rng, [*values.values(), *constants.values()])
            entry["bits"] = int(rng.integers(1, 65))
        elif kind == 5:
            entry = pick(rng, [*values.values(), *constants.values()])
            entry["signed"] = not entry["signed"]
        elif kind == 6 and operator["constants"] and other["constants"]:
            operator["constants"][pick(rng, operator["constants"])] = pick(rng, constants)
        elif kind == 7:
            size = int(pick(rng, [1, 2, 64, 20000, 46340]))
            values["image"]["shape"] = document["input"]["shape"] = [int(rng.integers(1, 4)), size, size]
            chosen = pick(rng, values)
            values[chosen]["shape"] = pick(rng, SHAPES)
        else:
            operator["op"] = other["op"]
    (folder / PROGRAM).write_text(json.dumps(document))


def another(value: Any, rng: np.random.Generator) -> Any:
    """An attribute of the same type, near the old one."""
    if type(value) is bool:
        return not value
    if type(value) is int:
        return int(value * pick(rng, [-1, 0.5, 2])) + int(rng.integers(-2, 3))
    return pick(rng, ["floor", "rounded", "shift", "table", "exact", [1, 2], [2, 1, 0]])


def arrays(folder: Path, rng: np.random.Generator) -> None:
    """Extreme values in the constants, stored as declared and sealed: what bounds and checks must catch."""
    data = bytearray((folder / WEIGHTS).read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, tree)
        low, high = (8 + length + offset for offset in tree[name]["data_offsets"])
        kind = int(rng.integers(4))
        if kind == 0:
            data[low:high] = bytes([int(pick(rng, [0, 0x7F, 0x80, 0xFF]))]) * (high - low)
        elif kind == 1:
            data[low:high] = rng.bytes(high - low)
        elif high > low:
            width = (high - low) // max(1, int(np.prod(tree[name]["shape"])))
            place = low + width * int(rng.integers((high - low) // width))
            data[place : place + width] = pick(rng, [b"\xff" * (width - 1) + b"\x7f", b"\0" * (width - 1) + b"\x80"])
    (folder / WEIGHTS).write_bytes(bytes(data))
    seal(folder)


MUTATIONS: list[Callable[[Path, np.random.Generator], None]] = [
    bytes_of_program,
    bytes_of_weights,
    behind_the_checksum,
    header,
    tree_of_program,
    graph,
    arrays,
]


def mutate(folder: Path, rng: np.random.Generator) -> str:
    """Change the checkpoint; the name of the mutation."""
    mutation = pick(rng, MUTATIONS)
    mutation(folder, rng)
    return mutation.__name__


def outcome(folder: Path, seed: int) -> str:
    """ "refused", "equal" (it loads, and two runtimes agree on it) or "large" (it loads; not run). Raises otherwise."""
    try:
        program = load_checkpoint(folder)
    except ProgramError as error:
        message = str(error)
        assert message.startswith(f"{folder}: "), message
        assert "\n" not in message, message
        return "refused"
    if max(int(np.prod(value.shape)) for value in program.values.values()) > 2**18:
        return "large"
    images = images_for(program, 2, seed)
    traces = [load_runtime(program, name).trace(images) for name in ("numpy", "torch")]
    for (name, one), (_, two) in zip(*traces, strict=True):
        assert np.array_equal(one, two), name
    return "equal"


def fuzz(count: int, seed: int) -> tuple[Counter, int, int]:
    """Outcomes of `count` mutations by (mutation, outcome); the peak of memory in bytes; the largest file."""
    outcomes: Counter = Counter()
    peak = largest = 0
    with tempfile.TemporaryDirectory() as root:
        sources = []
        for index in range(6):
            sources.append(Path(root) / f"source{index}")
            save_checkpoint(random_program([4, 5, 7, 9, 14, 27][index]), sources[-1])
        folder = Path(root) / "checkpoint"
        folder.mkdir()
        for trial in range(seed, seed + count):
            rng = np.random.default_rng(trial)
            source = pick(rng, sources)
            for name in (PROGRAM, WEIGHTS):
                (folder / name).write_bytes((source / name).read_bytes())
            kind = mutate(folder, rng)
            largest = max(largest, *((folder / name).stat().st_size for name in (PROGRAM, WEIGHTS)))
            tracemalloc.reset_peak()
            try:
                outcomes[kind, outcome(folder, trial)] += 1
            except Exception as error:
                raise AssertionError(f"mutation {trial} ({kind}): {type(error).__name__}: {error}") from error
            peak = max(peak, tracemalloc.get_traced_memory()[1])
    return outcomes, peak, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    tracemalloc.start()
    outcomes, peak, largest = fuzz(options.count, options.seed)
    for kind in MUTATIONS:
        print(
            f"{kind.__name__:<22}"
            + "".join(f"{o} {outcomes[kind.__name__, o]:<8}" for o in ("refused", "equal", "large"))
        )
    seconds = time.perf_counter() - start
    print(f"{options.count} mutations, {seconds:.0f} s, at most {peak / 2**20:.1f} MiB; files up to {largest} bytes")


if __name__ == "__main__":
    main()
