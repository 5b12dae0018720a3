"""`intvit bench runtime`: the native runtime beside other inference runtimes, on one model with random weights.

All run the same weights on the same images: native the integer program of `--quant`, peers the float model of timm, or
their own 8-bit form of it. Calls are interleaved; the figures are medians, a ratio is the median of the ratios of calls
that are neighbours in time. With one thread time is the process's CPU time, with more it is wall time. Every peer's
logits are compared with the float model's; `cosine` is the least similarity of an image's centered logits. Peers that
are not installed are left out (`pip install intvit[bench]`).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from intvit.analysis.check_model import macs
from intvit.analysis.peers import PACKAGES, PEERS, Run
from intvit.analysis.presets import photo_config, photo_model
from intvit.arguments import new_file, positive
from intvit.errors import IntVitError
from intvit.files import write_json
from intvit.models import MODELS, load_weights
from intvit.models.registry import TIMM_NAMES
from intvit.program import Program
from intvit.program.recording import record
from intvit.quant import calibrate
from intvit.runtime.native_plan import Kind, Step
from intvit.runtime.native_runtime import PATHS, NativeRuntime
from intvit.torchvision_fix import ensure_torchvision

LEAST_COSINE = 0.9  # of a peer that computes the same model, be it in 8 bits


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intvit bench runtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s", choices=MODELS)
    parser.add_argument("--quant", default="ivit8", help="preset of the integer program, with overrides after commas")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--path", choices=PATHS, help="of the native runtime (default: the fastest)")
    parser.add_argument(
        "--peers", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="PEER", help=", ".join(PEERS)
    )
    parser.add_argument("--rounds", type=positive, default=15, help="timed calls of each")
    parser.add_argument("--operators", action="store_true", help="also print where the native runtime spends its time")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, print the table, optionally write JSON."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, program, pixels = _models(options)
    native = NativeRuntime(program, options.threads, options.path)
    figures = measure(options, model, program, native, pixels)
    _print(figures)
    if options.operators:
        _print_operators(native, pixels)
    if options.json:
        write_json(options.json, figures)
    return 0


def _models(options: argparse.Namespace) -> tuple[nn.Module, Program, Tensor]:
    """timm's float model with lively random weights, the integer program of the same, and uint8 images [B, 3, H, W]."""
    ensure_torchvision()
    import timm

    data = photo_config()
    torch.manual_seed(0)
    model = timm.create_model(TIMM_NAMES[options.model], num_classes=data.num_classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    pixels = torch.randint(0, 256, (options.batch, 3, data.image_size, data.image_size), dtype=torch.uint8)
    integer = photo_model(options.model, options.quant, data)
    load_weights(integer, dict(model.named_parameters()))
    calibrate(integer, [pixels])
    return model, record(integer), pixels


def measure(
    options: argparse.Namespace, model: nn.Module, program: Program, native: NativeRuntime, pixels: Tensor
) -> dict[str, Any]:
    """What `--json` writes."""
    data = photo_config()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    images = (pixels / 255 - mean) / std
    with torch.inference_mode():
        expected = model(images).numpy()
    runs: dict[str, Callable[[], Any]] = {"native": lambda: native(pixels.numpy())}
    cosines = {"native": _cosine(native(pixels.numpy()) * program.score_scale, expected)}
    missing = {}
    for name in options.peers:
        try:
            run = PEERS[name](model, images, options.threads)
        except ImportError as error:
            missing[name] = f"not installed: {error.name}"
            continue
        cosines[name] = _cosine(run(images), expected)
        runs[name] = _bound(run, images)
    times = _interleaved(runs, options.rounds, cpu=options.threads == 1)
    for name, cosine in cosines.items():
        if cosine < LEAST_COSINE:
            raise IntVitError(f"{name} does not compute the float model: cosine of its logits {cosine:.3f}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "machine": machine(),
        "settings": {key: getattr(options, key) for key in ("model", "quant", "batch", "threads", "rounds")},
        "clock": "CPU" if options.threads == 1 else "wall",
        "path": native.path,
        "memory_mib": native.memory / 2**20,
        "gmacs": macs(program) * options.batch / 1e9,
        "native_ms": medians["native"],
        "native_cosine": cosines["native"],
        "peers": {
            name: {
                "ms": medians[name],
                "ratio": statistics.median(a / b for a, b in zip(times[name], times["native"], strict=True)),
                "cosine": cosines[name],
                "version": version(PACKAGES[name.partition("_")[0]]),
            }
            for name in runs
            if name != "native"
        },
        "missing": missing,
    }


def _bound(run: Run, images: Tensor) -> Callable[[], Any]:
    return lambda: run(images)


def _cosine(logits: np.ndarray, expected: np.ndarray) -> float:
    """Least cosine of an image's logits, each less its mean."""
    a, b = (x.astype(np.float64) - x.mean(-1, keepdims=True) for x in (logits, expected))
    return float(((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))).min())


def _interleaved(runs: dict[str, Callable[[], Any]], rounds: int, *, cpu: bool) -> dict[str, list[float]]:
    """Milliseconds of each call, all runs in turn, after two calls of each to warm up."""
    clock = time.process_time if cpu else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(-2, rounds):
        for name, run in runs.items():
            start = clock()
            run()
            if round_number >= 0:
                times[name].append(1e3 * (clock() - start))
    return times


def machine() -> str:
    """The processor's name, and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


def _print(figures: dict[str, Any]) -> None:
    settings = figures["settings"]
    print(
        f"{settings['model']} {settings['quant']}, batch {settings['batch']}, {settings['threads']} threads, "
        f"{settings['rounds']} interleaved rounds, {figures['clock']} time; {figures['machine']}; "
        f"native path {figures['path']}, {figures['memory_mib']:.1f} MiB"
    )
    print(f"{'':<22}{'ms':>9}{'ratio':>8}{'cosine':>9}  version")
    print(f"{'native':<22}{figures['native_ms']:>9.1f}{1:>8.2f}{figures['native_cosine']:>9.4f}")
    for name, row in figures["peers"].items():
        print(f"{name:<22}{row['ms']:>9.1f}{row['ratio']:>8.2f}{row['cosine']:>9.4f}  {row['version']}")
    for name, reason in figures["missing"].items():
        print(f"{name:<22}{reason}")


def step_macs(step: Step) -> int:
    """Multiplications of a fused or unfused product."""
    first, output = step.inputs[0], step.output.entries
    if step.kind not in (Kind.LINEAR, Kind.MATMUL, Kind.ATTENTION) or first is None:
        return 0
    depth = first.entries.shape[-1]
    if step.kind is Kind.ATTENTION and (key := step.inputs[1]) is not None:
        length = key.entries.shape[-2]
        return first.entries.size * length + output.size * length
    return output.size * depth


def _print_operators(native: NativeRuntime, pixels: Tensor) -> None:
    """Milliseconds an image by kind of step, and the multiplications' share of what the tile reaches in the cache."""
    runtime = NativeRuntime(native.program, 1, native.path)
    best: dict[int, float] = {}
    for _ in range(10):
        runtime(pixels[:1].numpy())
        for index, (_, milliseconds) in enumerate(runtime.step_times()):
            best[index] = min(milliseconds, best.get(index, milliseconds))
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for index, (step, _) in enumerate(runtime.step_times()):
        kind = step.kind.name.lower()
        shape = f" {step.constants[0].shape}" if step.kind is Kind.LINEAR and step.constants[0] is not None else ""
        for total, value in enumerate((1, best[index], step_macs(step) / 1e6)):
            rows[kind + shape][total] += value
    ceiling = runtime.ceiling()
    print(f"\nfastest of 10, one thread; the tile alone reaches {ceiling / 1e9:.0f} GMAC/s in the first-level cache")
    print(f"{'':<28}{'steps':>6}{'ms':>9}{'GMAC/s':>9}{'share':>8}")
    for name, (count, milliseconds, million) in sorted(rows.items(), key=lambda row: -row[1][1]):
        speed = million / milliseconds if milliseconds else 0.0
        product = f"{speed:>9.0f}{100e9 * speed / ceiling:>7.0f}%" if million else ""
        print(f"{name:<28}{count:>6.0f}{milliseconds:>9.2f}{product}")
