"""`intvit bench train`: what a step of quantization-aware training costs beside a float step.

Float is this package's own model in float mode: eager, with fused attention. Steps (forward, loss, backward, AdamW)
of all variants are interleaved; medians and ratios are reported, because machines drift.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.analysis.fresh_process import in_fresh_process
from intvit.analysis.presets import compose_quant
from intvit.arguments import new_file, positive
from intvit.files import write_json
from intvit.models import create_model
from intvit.quant import calibrate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Settings:
    """One measurement: which model at which size, which presets, how often."""

    model: str
    batch: int
    image_size: int
    threads: int
    quant: tuple[str, ...]
    compile: bool
    steps: int


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="intvit bench train", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--batch", type=positive, default=8)
    parser.add_argument("--image-size", type=positive, default=224)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--quant", nargs="+", default=["ivit8", "lut8"], help="presets to compare with float")
    parser.add_argument("--eager-only", action="store_true", help="leave out the compiled variants")
    parser.add_argument("--steps", type=positive, default=15, help="timed steps of each variant")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, print the table, optionally write JSON."""
    options = _parser().parse_args(arguments)
    settings = Settings(
        options.model,
        options.batch,
        options.image_size,
        options.threads,
        tuple(options.quant),
        not options.eager_only,
        options.steps,
    )
    rows = measure(settings)
    _print(rows, settings)
    if options.json:
        write_json(options.json, {"settings": vars(settings), "rows": rows})
    return 0


class Variant:
    """One model with its optimizer, ready to step."""

    def __init__(self, settings: Settings, preset: str, compiled: bool) -> None:
        torch.manual_seed(0)
        config = compose_quant(preset, [f"quant.compile={str(compiled).lower()}"])
        self.name = preset if preset == "fp32" else f"{preset} {'compiled' if compiled else 'eager'}"
        self.model = create_model(
            settings.model,
            image_size=settings.image_size,
            patch_size=None,
            num_classes=1000,
            mean=MEAN,
            std=STD,
            quant=config,
        )
        shape = (settings.batch, 3, settings.image_size, settings.image_size)
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
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def saved_bytes(self) -> int:
        """Bytes of all tensors that live from forward to backward, parameters and batch apart, each storage once."""
        known = {tensor.untyped_storage().data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())}
        known |= {self.images.untyped_storage().data_ptr(), self.labels.untyped_storage().data_ptr()}
        storages: dict[int, Any] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss()
        total = sum(storage.nbytes() for storage in storages.values())
        loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def measure(settings: Settings) -> list[dict[str, Any]]:
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
    rows = []
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


def _peak_memory(settings: Settings, preset: str, compiled: bool) -> float:
    """MiB that steps need at their peak beyond model, gradients and optimizer state, in a process of its own."""
    return in_fresh_process(_peak_of, settings, preset, compiled)


def _peak_of(settings: Settings, preset: str, compiled: bool) -> float:
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


def _print(rows: list[dict[str, Any]], settings: Settings) -> None:
    print(
        f"{settings.model}, batch {settings.batch}, {settings.image_size} px, {settings.threads} threads, "
        f"{settings.steps} interleaved steps, torch {torch.__version__}"
    )
    print(f"{'':<16}{'wall ms':>9}{'ratio':>7}{'CPU ms':>9}{'ratio':>7}{'saved MiB':>11}{'ratio':>7}{'peak MiB':>10}")
    for row in rows:
        print(
            f"{row['name']:<16}{row['wall_ms']:>9.0f}{row['wall_ratio']:>7.2f}{row['cpu_ms']:>9.0f}"
            f"{row['cpu_ratio']:>7.2f}{row['saved_mib']:>11.1f}{row['saved_ratio']:>7.2f}{row['peak_mib']:>10.0f}"
        )
