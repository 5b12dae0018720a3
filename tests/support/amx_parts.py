"""Where the native runtime's path `amx` spends its time: the same program with parts of the tile's work taken away.

    python -m tests.support.amx_parts --model deit_s

Compiles the library once for each form: `whole`; without multiplications; without the tile's loads and stores, too;
without fetching weights beforehand, too, which leaves what follows a product, softmax, LayerNorm and tables. Without
parts the scores are wrong, and only times count. On a processor without AMX there is no `whole`, and vectors of AVX-512
load and store the same bytes in the tile's place. A figure is the sum of every step's fastest run; forms are run in
turn, on one thread.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from intvit.bench.runtime import RuntimeSettings, machine, models
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.runtime import NativeRuntime
from intvit.runtime.native.steps import Kind
from tests.support.fuzz_native import AVX512

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fwrapv",
    "-shared",
    "-fPIC",
    "-pthread",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]
AMX = [*AVX512, "-mprefer-vector-width=512", "-mamx-tile", "-mamx-int8"]
BEGIN = "#pragma once\n#include <immintrin.h>\n#undef _tile_dpbusd\n#define _tile_dpbusd(C, A, B) ((void)0)\n"
WITHOUT_TILE = """
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#define _tile_zero(T) ((void)0)
#define _tile_loadconfig(config) ((void)(config))
#define _tile_release() ((void)0)
"""
NOTHING = """
#define _tile_loadd(T, from, stride) ((void)(from))
#define _tile_stored(T, to, stride) asm volatile("" : : "r"(to) : "memory")
"""
VECTORS = """
inline void vector_loads(const void* from, long stride) {
    for (int r = 0; r < 16; r++, from = static_cast<const char*>(from) + stride)
        asm volatile("vmovdqu64 (%0), %%zmm31" : : "r"(from) : "xmm31", "memory");
}
inline void vector_stores(void* to, long stride) {
    for (int r = 0; r < 16; r++, to = static_cast<char*>(to) + stride)
        asm volatile("vmovdqu64 %%zmm31, (%0)" : : "r"(to) : "memory");
}
#define _tile_loadd(T, from, stride) vector_loads(from, stride)
#define _tile_stored(T, to, stride) vector_stores(to, stride)
"""


def forms(amx: bool) -> dict[str, str | None]:
    """Name -> the header that the library is compiled with."""
    no_tile = BEGIN + WITHOUT_TILE + NOTHING
    return {
        **({"whole": None} if amx else {}),
        "no products": BEGIN if amx else BEGIN + WITHOUT_TILE + VECTORS,
        "no tile": no_tile,
        "no prefetch": no_tile + "#define __builtin_prefetch(...) ((void)0)\n",
    }


def compiled(form: str, header: str | None, folder: Path) -> Path:
    """The library of one form."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise IntVitError("g++ is needed to compile the forms of the library")
    library, changed = folder / f"{form.replace(' ', '_')}.so", folder / f"{form.replace(' ', '_')}.h"
    changed.write_text(header or "")
    source = native_runtime.FOLDER / "library.cpp"
    subprocess.run([compiler, *FLAGS, *AMX, "-include", changed, source, "-o", library], check=True)
    return library


def runtimes_of(program: Program, folder: Path) -> dict[str, NativeRuntime]:
    """Form -> its runtime. Libraries without parts say that they do not run here, and are used all the same."""
    here = native_runtime.supported()
    if "avx512" not in here:
        raise IntVitError(f"the path amx needs AVX-512; this machine has {', '.join(here) or 'no path'}")
    load, runtimes = native_runtime.load_library, {}
    try:
        for form, header in forms("amx" in here).items():
            library = native_runtime._open(compiled(form, header, folder))
            native_runtime.load_library = lambda path, library=library: library
            runtimes[form] = NativeRuntime(program, threads=1)
    finally:
        native_runtime.load_library = load
    return runtimes


def fastest(runtimes: dict[str, NativeRuntime], images: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Form -> kind of step -> milliseconds of one image: the sum of each step's fastest run."""
    least: dict[str, list[float]] = {}
    for _ in range(rounds):
        for form, runtime in runtimes.items():
            runtime.step_times()
            runtime(images)
            times = [milliseconds for _, milliseconds in runtime.step_times()]
            least[form] = [min(pair) for pair in zip(least.get(form, times), times, strict=True)]
    table: dict[str, dict[str, float]] = {}
    for form, runtime in runtimes.items():
        kinds: defaultdict[str, float] = defaultdict(float)
        for (step, _), time in zip(runtime.step_times(), least[form], strict=True):
            kinds[Kind(step.kind).name.lower()] += time
        table[form] = dict(kinds)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.amx_parts", description=__doc__)
    parser.add_argument("--model", default="deit_s")
    parser.add_argument("--quant", default="ivit8", help="preset of the program")
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args(arguments)
    _, program, pixels = models(
        RuntimeSettings(options.model, options.quant, batch=1, threads=1, rounds=options.rounds)
    )
    with tempfile.TemporaryDirectory() as folder:
        runtimes = runtimes_of(program, Path(folder))
    table = fastest(runtimes, pixels.numpy(), options.rounds)
    print(
        f"{options.model} {options.quant}, one image, one thread, fastest of {options.rounds} rounds, ms; {machine()}"
    )
    print(f"{'':16}" + "".join(f"{form:>14}" for form in table))
    for kind in dict.fromkeys(kind for kinds in table.values() for kind in kinds):
        print(f"{kind:16}" + "".join(f"{kinds[kind]:14.2f}" for kinds in table.values()))
    print(f"{'all':16}" + "".join(f"{sum(kinds.values()):14.2f}" for kinds in table.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
