"""Part `step`: a step of quantization-aware training beside a float step of the same model, under bf16-mixed.

Forward, loss, backward, AdamW and the move of the ranges; after the warm-up nothing may make the host wait.
"""

from __future__ import annotations

import gc
import statistics
from typing import Any

import torch

from intvit.bench.gpu.report import Report
from intvit.bench.gpu.subjects import loss_of, pixels, subject
from intvit.calibration import calibrate
from intvit.quant.control import move_ranges

QUANT, BATCHES, ROUNDS, WARM_UP = ("ivit8", "lut8"), (256, 128, 64, 32), 15, 5


class Training:
    """A model on the device with its optimizer and one batch; `quant`: a preset, fp32 for float."""

    def __init__(self, report: Report, quant: str, batch: int) -> None:
        device = report.place.device
        self.model = subject("deit_s", quant, report.place)
        if quant != "fp32":
            calibrate(self.model, [pixels(self.model, 4, 0)])
        self.model.managed = True
        self.model.train().to(device)
        self.images = pixels(self.model, batch, 1).to(device)
        self.labels = (torch.arange(batch) % self.model.num_classes).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)

    def step(self) -> None:
        """One step; it reads nothing on the host."""
        torch.autograd.backward(loss_of(self.model, self.images, self.labels))
        move_ranges(self.model)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def step(report: Report) -> None:
    """Medians of interleaved rounds by CUDA events, peaks of memory, launches; on a CPU only that the steps run."""
    if report.place.gpu:
        report.place.needs_kernels()
    for quant in QUANT:
        if not report.place.gpu:
            training = Training(report, quant, 2)
            training.step()
            training.model.check_scales()
            report.add(quant, ran="a step of a small model, batch 2")
            continue
        for batch in BATCHES:
            try:
                report.add(quant, batch=batch, **_measured(report, quant, batch))
                break
            except torch.cuda.OutOfMemoryError:
                report.add(quant, batch=batch, memory="not enough")
            gc.collect()
            torch.cuda.empty_cache()
        else:
            raise RuntimeError(f"{quant}: memory does not suffice for a batch of {BATCHES[-1]}")


def _measured(report: Report, quant: str, batch: int) -> dict[str, Any]:
    figures: dict[str, dict[str, float]] = {}
    runs: dict[str, Training] = {}
    for name in (quant, "fp32"):  # peaks before both models are there
        training = Training(report, name, batch)
        for _ in range(WARM_UP):  # compiles kernels, makes the optimizer's state, captures the derivations
            training.step()
        figures[name] = {"peak": _peak(training), "launches": _launches(training)}
        runs[name] = training
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, training in runs.items():
            times[name].append(_milliseconds(training))
    runs[quant].model.check_scales()
    report.equality(f"{quant}, nothing waits", _waits(runs[quant]))
    integer, real = figures[quant], figures["fp32"]
    return {
        "ms": statistics.median(times[quant]),
        "float_ms": statistics.median(times["fp32"]),
        "ratio": statistics.median(a / b for a, b in zip(times[quant], times["fp32"], strict=True)),
        "peak_gib": integer["peak"] / 2**30,
        "float_peak_gib": real["peak"] / 2**30,
        "peak_ratio": integer["peak"] / real["peak"],
        "launches": integer["launches"],
        "float_launches": real["launches"],
    }


def _milliseconds(training: Training) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    training.step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _waits(training: Training) -> list[str]:
    """What makes the host wait in a step, as torch tells it; apart from the times, which are figures all the same."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step()
    except RuntimeError as error:
        return [" ".join(str(error).split())[:200]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return []


def _peak(training: Training) -> float:
    """Bytes at the peak of a step, beyond what lives on the device without this model."""
    state = training.optimizer.state.values()
    kept = [*training.model.parameters(), *training.model.buffers(), training.images, training.labels]
    kept += [value for values in state for value in values.values() if isinstance(value, torch.Tensor)]
    own = sum(tensor.nbytes for tensor in kept if tensor.is_cuda)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    training.step()
    torch.cuda.synchronize()
    return own + torch.cuda.max_memory_allocated() - before


def _launches(training: Training) -> float:
    """What the host launches in a step: kernels, copies and graphs, each once."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        training.step()
        torch.cuda.synchronize()
    names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    return sum(event.count for event in profile.key_averages() if event.key.startswith(names))
