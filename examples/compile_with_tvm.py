"""An integer checkpoint compiled by Apache TVM for this machine's CPU, compared with the numpy runtime, and timed.

    pip install 'intvit[onnx]' apache-tvm==0.27.0.post1
    TVM_NUM_THREADS=2 python examples/compile_with_tvm.py outputs/RUN_FOLDER/integer --images photos.npy

The way: the ONNX model of batch 1, its local functions inlined, through TVM's Relax importer, the pipeline "zero", the
schedule below, LLVM. Prints the images whose scores differ from the numpy runtime's, and milliseconds an image, of
onnxruntime too (its threads: OMP_NUM_THREADS).
"""

import argparse
import time

import numpy as np
import onnx
import onnx.inliner
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import Schedule

from intvit.program import load_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.images import read_images
from intvit.runtime.onnx import to_onnx

LANES = 16  # int32 in a vector of 512 bits
SMALL = 4096  # entries below which a tensor is not worth a schedule


def is_reduction(schedule: Schedule, block: object) -> bool:
    return any(int(variable.iter_type) == 2 for variable in schedule.get(block).iter_vars)


def scheduled(function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """The function with its element-wise stages inlined, vectors along the last axis, threads over the others.

    Matrix products keep a row of accumulators in registers (or, where its length is odd, in the cache) and end with all
    that follows: bias, multiplication, shift, clamp. The integers are the same in any order.
    """
    schedule = Schedule(tvm.IRModule({"main": function}))
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    reductions, output = [block for block in blocks if is_reduction(schedule, block)], blocks[-1]
    extents = [int(schedule.get(loop).extent) for loop in schedule.get_loops(output)]
    if len(reductions) > 1 or np.prod(extents) < SMALL:
        return function
    for block in blocks:
        if block not in reductions and block is not output:
            schedule.compute_inline(block)
    if not reductions:
        _vectorize(schedule, output)
        _parallel(schedule, output, keep=1)
    elif schedule.get(reductions[0]).name_hint == "matmul" and reductions[0] is not output and extents[-1] > 1:
        _matmul(schedule, reductions[0], output)
    return schedule.mod["main"]


def _vectorize(schedule: Schedule, block: object) -> None:
    last = schedule.get_loops(block)[-1]
    if int(schedule.get(last).extent) % LANES == 0:
        _, inner = schedule.split(last, [None, LANES])
        schedule.vectorize(inner)


def _parallel(schedule: Schedule, block: object, keep: int) -> object:
    """All but the last `keep` loops as one, in parallel."""
    loops = schedule.get_loops(block)
    if len(loops) <= keep:
        return None
    fused = schedule.fuse(*loops[:-keep])
    schedule.parallel(fused)
    return fused


def _matmul(schedule: Schedule, product: object, output: object) -> None:
    *rows, j, k = schedule.get_loops(product)
    width, depth = int(schedule.get(j).extent), int(schedule.get(k).extent)
    tile = next((size for size in (192, 128, 64) if width % size == 0), None)
    row = schedule.fuse(*rows)
    schedule.parallel(row)
    accumulators = schedule.cache_write(product, 0, "local")
    if tile is None:
        schedule.reorder(k, j)
        schedule.reverse_compute_at(accumulators, row)
        schedule.reverse_compute_at(output, row)
        schedule.decompose_reduction(product, k)
        return
    outer, inner = schedule.split(j, [None, tile])
    steps, step = schedule.split(k, [None, 4 if depth % 4 == 0 else 1])
    schedule.reorder(outer, steps, step, inner)
    vectors, lanes = schedule.split(inner, [None, 4 * LANES])
    schedule.unroll(vectors)
    schedule.vectorize(lanes)
    schedule.unroll(step)
    for stage in (accumulators, output):
        schedule.reverse_compute_at(stage, outer)
        _, lanes = schedule.split(schedule.get_loops(stage)[-1], [None, LANES])
        schedule.vectorize(lanes)
    schedule.decompose_reduction(product, steps)


def compiled(model: onnx.ModelProto, processor: str) -> tvm.relax.VirtualMachine:
    """A virtual machine whose "main" takes the image; the model has a fixed batch size."""
    module = from_onnx(onnx.inliner.inline_local_functions(model))
    target = tvm.target.Target({"kind": "llvm", "mcpu": processor})
    passes = [relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings()]
    with target:
        module = tvm.ir.transform.Sequential([*passes, relax.get_pipeline("zero")])(module)
        functions = {
            name: scheduled(function) if isinstance(function, tvm.tirx.PrimFunc) else function
            for name, function in module.functions.items()
        }
        return relax.VirtualMachine(tvm.compile(tvm.IRModule(functions), target=target), tvm.cpu())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="an integer checkpoint")
    parser.add_argument("--images", nargs="+", required=True, help="photos, or .npy files of uint8 pixels")
    parser.add_argument("--processor", default=tvm.target.codegen.llvm_get_system_cpu(), help="LLVM's name of the CPU")
    options = parser.parse_args()
    program = load_checkpoint(options.folder)
    images = read_images(program, options.images)
    start = time.perf_counter()
    machine = compiled(to_onnx(program, batch=1), options.processor)
    print(f"compiled for {options.processor} in {time.perf_counter() - start:.0f} s", flush=True)
    expected, ways = load_runtime(program, "numpy"), {}
    ways["TVM"] = lambda image: machine["main"](tvm.runtime.tensor(image)).numpy()
    ways["onnxruntime"] = load_runtime(program, "onnx")
    times, differing = {name: [] for name in ways}, dict.fromkeys(ways, 0)
    for image in images[:, None]:
        scores = expected(image)
        for name, run in ways.items():  # in turn, so that a busy machine treats them alike
            clocks = time.perf_counter(), time.process_time()
            differing[name] += int((run(image) != scores).any())
            times[name].append((time.perf_counter() - clocks[0], time.process_time() - clocks[1]))
    print(f"{'':<14}{'differing':>12}{'median ms':>12}{'best ms':>10}{'median CPU ms':>16}")
    for name, taken in times.items():
        (wall, processor), best = 1e3 * np.median(taken, 0), 1e3 * np.min(taken, 0)[0]
        print(f"{name:<14}{differing[name]:>4} of {len(images):<4}{wall:>12.1f}{best:>10.1f}{processor:>16.1f}")


if __name__ == "__main__":
    main()
