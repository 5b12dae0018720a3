"""The cuda runtime beside others on one GPU: CUDA events, interleaved rounds, medians, its share of the roofline."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from intvit.data.presets import photo_config
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime.cuda.lowering import lower
from intvit.runtime.cuda.runtime import CudaRuntime
from intvit.runtime.cuda.steps import Kind, Step
from intvit.runtime.plan import ExecutionPlan

BATCHES = (1, 8, 32, 128)
# int8 operations of the tensor cores of one multiprocessor in a cycle, by compute capability: NVIDIA's data sheets
OPERATIONS = {(8, 0): 4096, (8, 6): 2048, (8, 9): 2048, (9, 0): 8192}
COPIED = 1 << 28  # bytes of the copy that measures the bandwidth: far beyond any cache


@dataclass(frozen=True)
class StepWork:
    """What a step must move and multiply for a batch: bytes of memory, and int8 operations (two for each product)."""

    step: Step
    bytes: int
    operations: int


def work(plan: ExecutionPlan[Step], batch: int) -> list[StepWork]:
    """The least work of every step: each operand is read once, each result written once, constants once a batch."""
    result = []
    for step in plan.steps:
        constants = sum(array.nbytes for array in step.constants.values())
        moved = 0
        for tensor in step.tensors:
            size = tensor.entries.size * tensor.dtype.itemsize
            if plan.buffers[tensor.buffer].data is None:
                moved += size * batch
            else:
                constants += plan.buffers[tensor.buffer].size
        result.append(StepWork(step, moved + constants, 2 * batch * _products(step)))
    return result


def _products(step: Step) -> int:
    """Multiplications of one image."""
    if step.kind is Kind.ATTENTION:  # once with the keys, once with the values
        return 2 * prod(step.inputs["q"].entries.shape) * step.inputs["k"].entries.shape[-2]
    if step.kind in (Kind.LINEAR, Kind.LINEAR_TURNED):
        return step.output.entries.size * step.inputs["x"].entries.shape[-1]
    return step.output.entries.size * step.inputs["a"].entries.shape[-1] if step.kind is Kind.MATMUL else 0


def floor_seconds(steps: Sequence[StepWork], bandwidth: float, peak: float) -> float:
    """The roofline: every step takes as long as the slower of its bytes and its operations."""
    return sum(max(step.bytes / bandwidth, step.operations / peak) for step in steps)


def gpu() -> torch.device:
    """The current GPU. Raises IntVitError where there is none."""
    if not torch.cuda.is_available():
        raise IntVitError("--device cuda measures on an NVIDIA GPU, and torch sees none here: leave it out for the CPU")
    return torch.device("cuda", torch.cuda.current_device())


def measure(model: nn.Module, program: Program, pixels: Tensor, batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """What `intvit bench runtime --device cuda --json` writes. pixels: uint8 [at least the largest batch, 3, H, W]."""
    device = gpu()
    runtime, plan = CudaRuntime(program), lower(program, fuse=True)
    properties, bandwidth = torch.cuda.get_device_properties(device), copy_bandwidth(device)
    peak = peak_operations(properties)
    data, missing = photo_config(), dict[str, str]()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (data.mean, data.std))
    pixels, model = pixels.to(device), model.to(device)
    rows = []
    for batch in batches:
        images = (pixels[:batch] / 255 - mean) / std
        runs: dict[str, Callable[[], Any]] = {"intvit": lambda size=batch: runtime(pixels[:size])}  # type: ignore[misc]
        for name, peer in PEERS.items():
            try:
                runs[name] = peer(model, images)
            except ImportError as error:
                missing[name] = f"not installed: {error.name}"
        times = _interleaved(runs, rounds)
        floor = floor_seconds(work(plan, batch), bandwidth, peak) if peak else None
        for name, values in times.items():
            seconds = statistics.median(values)
            rows.append(
                {
                    "batch": batch,
                    "runtime": name,
                    "ms": 1e3 * seconds,
                    "images_per_second": batch / seconds,
                    "ratio": statistics.median(a / b for a, b in zip(values, times["intvit"], strict=True)),
                    "roofline": floor / seconds if floor and name == "intvit" else None,
                }
            )
    return {
        "gpu": properties.name,
        "torch": version("torch"),
        "triton": version("triton"),
        "copy_gb_per_second": bandwidth / 1e9,
        "peak_int8_tops": peak / 1e12 if peak else None,
        "weights_mib": runtime.weight_memory / 2**20,
        "buffers_mib_per_image": runtime.buffer_memory(1) / 2**20,
        "rows": rows,
        "missing": missing,
    }


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy from memory to memory."""
    source, target = (torch.empty(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    times = _interleaved({"copy": lambda: target.copy_(source)}, 20)["copy"]
    return 2 * COPIED / statistics.median(times)


def peak_operations(properties: Any) -> float | None:
    """int8 operations a second of all tensor cores at the card's clock; None for a card that is not in OPERATIONS."""
    cycle = OPERATIONS.get((properties.major, properties.minor))
    clock = getattr(properties, "clock_rate", None)  # kHz; older versions of torch do not tell
    return cycle * properties.multi_processor_count * clock * 1e3 if cycle and clock else None


def torch_fp32(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Eager, with fused attention."""
    return _inference(model, images)


def torch_bf16_graphs(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """torch.compile in bfloat16 with CUDA graphs."""
    compiled = torch.compile(copy.deepcopy(model).to(torch.bfloat16), mode="reduce-overhead")
    return _inference(compiled, images.to(torch.bfloat16))


def tensorrt_fp16(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """TensorRT's fp16 engine, where torch_tensorrt is installed."""
    import torch_tensorrt  # type: ignore[import-not-found, unused-ignore]

    halves = images.to(torch.float16)
    half = copy.deepcopy(model).to(torch.float16)
    return _inference(torch_tensorrt.compile(half, inputs=[halves], enabled_precisions={torch.float16}), halves)


def _inference(function: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def run() -> Tensor:
        return function(images)

    return run


PEERS: dict[str, Callable[[nn.Module, Tensor], Callable[[], Tensor]]] = {
    "torch_fp32": torch_fp32,
    "torch_bf16_graphs": torch_bf16_graphs,
    "tensorrt_fp16": tensorrt_fp16,
}


def _interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds on the GPU of each call, all runs in turn, after three calls of each to compile and capture."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(-3, rounds):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if round_number >= 0:
                times[name].append(start.elapsed_time(end) / 1e3)
    return times
