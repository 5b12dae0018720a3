"""`write_c`: a program as a folder of C99 with a Makefile and, if wanted, a main program."""

from __future__ import annotations

import re
from pathlib import Path

from intvit.errors import IntVitError
from intvit.export.c.operators import lower
from intvit.export.c.source import Source, Weights
from intvit.export.c.steps import AnyStep
from intvit.files import write_bytes, write_text
from intvit.program.program import Program
from intvit.runtime.plan import ExecutionPlan


def write_c(
    program: Program, folder: Path, *, weights: Weights = "array", main: bool = False, arena_limit: int | None = None
) -> Source:
    """Writes a checked program as portable C99 into a new or empty folder; returns what was written, as text.

    weights: `array` (weights.c, every compiler), `incbin` (weights.bin through a GNU assembler, faster to build) or
    `bin` (weights.bin, which the caller loads). main: a program that reads images of uint8 from its input and prints
    their scores. arena_limit: bytes.

    Raises IntVitError if the folder is not empty, if the memory is over the limit, for an operator that has no C form
    and for an intermediate that no integer of C holds; nothing is written then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IntVitError(f"{folder} exists and is not an empty folder; give a new one, nothing was written")
    plan = lower(program)
    source = Source(program, plan, weights)
    if arena_limit is not None and source.arena > arena_limit:
        raise IntVitError(_over_limit(plan, source.arena, arena_limit))
    texts = {"model.h": source.header(), "model.c": source.code()}
    if weights != "bin":
        texts["weights.h"] = source.weights_header()
    if weights == "array":
        texts["weights.c"] = source.array_file()
    else:
        write_bytes(folder / "weights.bin", source.binary())
    if weights == "incbin":
        texts["weights.S"] = source.assembler_file()
    if main:
        texts["main.c"] = _MAIN_LOADING if weights == "bin" else _MAIN
    texts["Makefile"] = _makefile(weights, main)
    for name, text in texts.items():
        write_text(folder / name, re.sub(r"[ \t]+\n", "\n", text))
    return source


def _over_limit(plan: ExecutionPlan[AnyStep], arena: int, limit: int) -> str:
    """Names the step where the most memory is in use, and its largest tensor."""
    lives: dict[int, list[int]] = {}
    for index, step in enumerate(plan.steps):
        for tensor in step.tensors:
            if plan.buffers[tensor.buffer].data is None:
                lives.setdefault(tensor.buffer, [index, index])[1] = index
    used = [
        sum(plan.buffers[b].size for b, (first, last) in lives.items() if first <= index <= last)
        for index in range(len(plan.steps))
    ]
    index = used.index(max(used))
    alive = [b for b, (first, last) in lives.items() if first <= index <= last]
    largest = max(alive, key=lambda b: plan.buffers[b].size)
    name = next((n for n, tensor in plan.values.items() if tensor.buffer == largest), "scratch memory")
    step = plan.steps[index]
    where = step.name if not hasattr(step, "steps") else step.steps[0].name
    return (
        f"the arena takes {arena} bytes, more than --arena-limit {limit}: at {where!r} {max(used)} are in use, "
        f"{plan.buffers[largest].size} by {name!r}; raise the limit, or export a model of smaller images or width"
    )


def _makefile(weights: Weights, main: bool) -> str:
    objects = {"array": "model.o weights.o", "incbin": "model.o weights.o", "bin": "model.o"}[weights]
    lines = ["CFLAGS ?= -O3", "STRICT = -std=c99 -Wall -Wextra -Wconversion -pedantic", ""]
    lines += [f"all: {'model' if main else objects}", ""]
    if main:
        lines += [f"model: main.o {objects}", "\t$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^", ""]
        lines += ["main.o: main.c model.h", "\t$(CC) $(STRICT) $(CFLAGS) -c -o $@ main.c", ""]
    header = "" if weights == "bin" else " weights.h"
    lines += [f"model.o: model.c model.h{header}", "\t$(CC) $(STRICT) $(CFLAGS) -c -o $@ model.c", ""]
    if weights == "array":
        lines += ["weights.o: weights.c weights.h", "\t$(CC) $(STRICT) $(CFLAGS) -c -o $@ weights.c", ""]
    if weights == "incbin":
        lines += ["weights.o: weights.S weights.bin", "\t$(CC) -c -o $@ weights.S", ""]
    return "\n".join([*lines, "clean:", "\trm -f model *.o", ""])


_MAIN = """\
/* model < images > scores: raw images, one after the other, as model.h says; a line of scores for each. */
#include <stdio.h>
#include "model.h"

static uint8_t image[MODEL_IMAGE];
static int32_t scores[MODEL_SCORES];

int main(void)
{
    int32_t i;
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        model_run(image, scores);
        for (i = 0; i < MODEL_SCORES; i++)
            printf("%ld%c", (long)scores[i], i + 1 < MODEL_SCORES ? ' ' : '\\n');
    }
    return 0;
}
"""
_WEIGHTS = """\
static union {
    uint8_t bytes[MODEL_CONSTANTS + 32];
    int64_t aligned;
} weights;
"""
_READ = """\
    FILE *file = fopen(count > 1 ? arguments[1] : "weights.bin", "rb");
    int32_t i;
    if (!file || fread(weights.bytes, 1, sizeof weights.bytes, file) == 0 || model_load(weights.bytes) != 0) {
        fputs("weights.bin is not there, or of another model\\n", stderr);
        return 1;
    }
    fclose(file);
"""
_MAIN_LOADING = (
    _MAIN.replace("static int32_t scores", _WEIGHTS + "static int32_t scores")
    .replace("int main(void)", "int main(int count, char **arguments)")
    .replace("model < images", "model [weights.bin] < images")
    .replace("    int32_t i;\n", _READ)
)
