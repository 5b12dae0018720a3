"""What a step of quantization-aware training costs beside a float step: time, memory, saved bytes.

Float is this package's own model in float mode: eager, with fused attention.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.bench.fresh_process import in_fresh_process
from intvit.calibration import calibrate
from intvit.models import create_model
from intvit.models.build import IMAGENET_MEAN, IMAGENET_STD
from intvit.quant.presets import compose_quant


@dataclass(frozen=True)
class TrainSettings:
    """One measurement: which model at which size, which presets, how often."""

    model: str
    batch: int
    image_size: tuple[int, int]
    threads: int
    quant: tuple[str, ...]
    compile: bool
    steps: int


class Variant:
    """One model with its optimizer, ready to step."""

    def __init__(self, settings: TrainSettings, preset: str, compiled: bool) -> None:
        torch.manual_seed(0)
        config = compose_quant(preset, [f"quant.compile={str(compiled).lower()}"])
        self.name = preset if preset == "fp32" else f"{preset} {'compiled' if compiled else 'eager'}"
        self.model = create_model(
            settings.model,
            image_size=settings.image_size,
            patch_size=None,
            num_classes=1000,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            quant=config,
        )
        shape = (settings.batch, 3, *settings.image_size)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8)
        self.labels = torch.randint(0, 1000, (settings.batch,))
        if config.enabled:
            calibrate(self.model, [self.images])
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)

    def loss(self) -> Tensor:
        """Forward."""
        return nn.functional.cross_entropy(self.model(self.images), self.labels)

    def step(self) -> None:
        """One training step."""
        torch.autograd.backward(self.loss())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def saved_bytes(self) -> int:
        """Bytes of all tensors that live from forward to backward, parameters and batch apart, each storage once."""
        known = {tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())}
        known |= {self.images.untyped_storage().data_ptr(), self.labels.untyped_storage().data_ptr()}
        storages: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss()
        total = sum(storage.nbytes() for storage in storages.values())
        torch.autograd.backward(loss)
        self.optimizer.zero_grad(set_to_none=True)
        return total


def measure(settings: TrainSettings) -> list[dict[str, Any]]:
    """One row a variant: median wall and CPU milliseconds, ratios to float, saved bytes, peak memory."""
    torch.set_num_threads(settings.threads)
    wanted = [("fp32", False)]
    wanted += [
        (preset, compiled) for compiled in ([False, True] if settings.compile else [False]) for preset in settings.quant
    ]
    variants = [Variant(settings, *which) for which in wanted]
    for variant in variants:
        for _ in range(3):
            variant.step()
    wall: dict[str, list[float]] = {variant.name: [] for variant in variants}
    cpu: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(settings.steps):
        for variant in variants:
            start, start_cpu = time.perf_counter(), time.process_time()
            variant.step()
            wall[variant.name].append(time.perf_counter() - start)
            cpu[variant.name].append(time.process_time() - start_cpu)
    rows: list[dict[str, Any]] = []
    for variant, which in zip(variants, wanted, strict=True):
        rows.append(
            {
                "name": variant.name,
                "wall_ms": 1e3 * statistics.median(wall[variant.name]),
                "cpu_ms": 1e3 * statistics.median(cpu[variant.name]),
                # The ratio of neighbours in time, then its median: drift cancels.
                "wall_ratio": _ratio(wall[variant.name], wall["fp32"]),
                "cpu_ratio": _ratio(cpu[variant.name], cpu["fp32"]),
                "saved_mib": variant.saved_bytes() / 2**20,
                "peak_mib": _peak_memory(settings, *which),
            }
        )
    for row in rows:
        row["saved_ratio"] = row["saved_mib"] / rows[0]["saved_mib"]
    return rows


def _ratio(times: list[float], reference: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def _peak_memory(settings: TrainSettings, preset: str, compiled: bool) -> float:
    """MiB that steps need at their peak beyond model, gradients and optimizer state, in a process of its own."""
    return float(in_fresh_process(_peak_of, settings, preset, compiled))


def _peak_of(settings: TrainSettings, preset: str, compiled: bool) -> float:
    torch.set_num_threads(settings.threads)
    variant = Variant(settings, preset, compiled)
    variant.step()  # compiles, and makes the optimizer's state
    if not _CLEAR.exists():
        return float("nan")
    _CLEAR.write_text("5")  # forget the peak so far
    before = _memory("VmRSS")
    for _ in range(3):
        variant.step()
    return _memory("VmHWM") - before


_CLEAR = Path("/proc/self/clear_refs")  # Linux alone keeps a peak that can be reset


def _memory(key: str) -> float:
    """MiB of this process by its status file."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 2**10
