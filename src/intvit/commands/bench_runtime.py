"""`intvit bench runtime`: the native or the cuda runtime beside others, on one model with random weights.

All run the same weights on the same images: native the integer program of `--quant`, peers the float model of timm, or
their own 8-bit form of it. Calls are interleaved; the figures are medians, a ratio is the median of the ratios of calls
that are neighbours in time, its spread how far the middle 80 % of them reach. Native against itself, first and last in
every round, says what differences the machine makes. `ceiling`: the multiply-adds that native's inner product does
alone, on data in the first-level cache. `--isa avx2` holds all to an instruction set. With one thread time is the
process's CPU time, with more it is wall time. Every peer's logits are compared with the float model's; `cosine` is the
least similarity of an image's centered logits. With `--head` those are of all pixels, and native's time includes the
labels, which peers are spared. Peers that are not installed are left out (`pip install intvit[bench]`).

With `--device cuda` the cuda runtime is measured by CUDA events beside torch and TensorRT on the GPU; `roofline` is the
share of the time that the plan's bytes and int8 operations need at the measured copy bandwidth and the card's peak.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from intvit.arguments import sides_text
from intvit.bench.fresh_process import in_fresh_process
from intvit.bench.peers import HELD, ISAS, PEERS
from intvit.bench.runtime import RuntimeSettings, measure, models, step_macs, verdict
from intvit.commands.argument_types import image_size_option, new_file, positive, threads
from intvit.commands.console_table import print_table
from intvit.errors import IntVitError
from intvit.files import write_json
from intvit.models import MODELS
from intvit.runtime.native.runtime import PATHS, NativeRuntime, load_library
from intvit.runtime.native.steps import Kind


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit bench runtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="deit_s", choices=MODELS)
    parser.add_argument("--quant", default="ivit8", help="preset of the integer program, with overrides after commas")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--batch", type=positive, nargs="+", help="images of a call; with cuda several (default: 1; 1 8 32 128)"
    )
    image_size_option(parser)
    parser.add_argument("--classes", type=positive, help="default: ImageNet's 1000")
    parser.add_argument("--head", choices=["linear"], help="label every pixel, with this head")
    parser.add_argument("--threads", type=threads, default=1)
    parser.add_argument("--path", choices=PATHS, help="of the native runtime (default: that of --isa, or the fastest)")
    parser.add_argument("--isa", choices=ISAS, help="instruction set that native, torch and OpenVINO are held to")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=list(PEERS),
        choices=list(PEERS),
        metavar="PEER",
        help=f"on the CPU: {', '.join(PEERS)}",
    )
    parser.add_argument("--rounds", type=positive, default=15, help="timed calls of each")
    parser.add_argument("--operators", action="store_true", help="also print where the native runtime spends its time")
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Measure, print the table, optionally write JSON."""
    options = parser().parse_args(arguments)
    if options.device == "cuda":
        torch.set_num_threads(options.threads)
        return _on_gpu(options)
    if options.batch and len(options.batch) > 1:
        raise IntVitError("--batch takes one number with --device cpu")
    if options.isa:
        os.environ.update(ISAS[options.isa])
        return int(in_fresh_process(_on_cpu, options))  # the libraries read it when they are imported
    return _on_cpu(options)


def _settings(options: argparse.Namespace, batch: int) -> RuntimeSettings:
    end = options.image_size, options.classes, options.head
    return RuntimeSettings(options.model, options.quant, batch, options.threads, options.rounds, *end)


def _on_cpu(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    (batch,) = options.batch or [1]
    settings, path = _settings(options, batch), options.path or options.isa
    load_library(path)  # refused before any work
    model, program, pixels = models(settings)
    native = NativeRuntime(program, options.threads, path)
    held = [name for name in options.peers if not options.isa or name.startswith(HELD)]
    figures = measure(settings, held, model, program, native, pixels)
    figures["isa"] = options.isa
    figures["missing"] |= {name: f"cannot be held to {options.isa}" for name in options.peers if name not in held}
    _print(figures)
    if options.operators:
        _print_operators(native, pixels)
    if options.json:
        write_json(options.json, figures)
    return 0


def _on_gpu(options: argparse.Namespace) -> int:
    from intvit.bench import cuda

    cuda.gpu()
    batches = options.batch or list(cuda.BATCHES)
    settings = _settings(options, max(batches))
    figures = cuda.measure(*models(settings), batches, options.rounds)
    print(", ".join(f"{key} {value}" for key, value in figures.items() if key not in ("rows", "missing")))
    print_table(figures["rows"])
    for name, reason in figures["missing"].items():
        print(f"{name:<22}{reason}")
    if options.json:
        write_json(options.json, figures)
    return 0


def _print(figures: dict[str, Any]) -> None:
    settings = figures["settings"]
    print(
        f"{settings['model']} {settings['quant']}, {sides_text(settings['image_size'])} pixels, "
        f"batch {settings['batch']}, {settings['threads']} threads, "
        f"{settings['rounds']} interleaved rounds, {figures['clock']} time; {figures['machine']}; "
        f"native path {figures['path']}, {figures['memory_mib']:.1f} MiB"
    )
    print(f"{'':<22}{'ms':>9}{'ratio':>8}{'spread':>8}{'cosine':>9}  version")
    share = f"  {100 * figures['share_of_ceiling']:.0f} % of the ceiling"
    print(f"{'native':<22}{figures['native_ms']:>9.1f}{1:>8.2f}{'':>8}{figures['native_cosine']:>9.4f}{share}")
    for name, row in figures["peers"].items():
        spread = f"{100 * row['spread']:>7.0f}%"
        print(f"{name:<22}{row['ms']:>9.1f}{row['ratio']:>8.2f}{spread}{row['cosine']:>9.4f}  {row['version']}")
    for name, reason in figures["missing"].items():
        print(f"{name:<22}{reason}")
    print(verdict(figures["control"]))


def _print_operators(native: NativeRuntime, pixels: Tensor) -> None:
    """Milliseconds an image by kind of step, and the multiplications' share of what the tile reaches in the cache."""
    runtime = NativeRuntime(native.program, 1, native.path)
    best: dict[int, float] = {}
    for _ in range(10):
        runtime(pixels[:1].numpy())
        for index, (_, milliseconds) in enumerate(runtime.step_times()):
            best[index] = min(milliseconds, best.get(index, milliseconds))
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    steps = [step for step, _ in runtime.step_times()]
    macs = step_macs(native.program, steps)
    for index, step in enumerate(steps):
        kind = step.kind.name.lower()
        shape = f" {step.constants[0].shape}" if step.kind is Kind.LINEAR and step.constants[0] is not None else ""
        for total, value in enumerate((1, best[index], macs[index] / 1e6)):
            rows[kind + shape][total] += value
    ceiling = runtime.ceiling()
    print(f"\nfastest of 10, one thread; the tile alone reaches {ceiling / 1e9:.0f} GMAC/s in the first-level cache")
    print(f"{'':<28}{'steps':>6}{'ms':>9}{'GMAC/s':>9}{'share':>8}")
    for name, (count, milliseconds, million) in sorted(rows.items(), key=lambda row: -row[1][1]):
        speed = million / milliseconds if milliseconds else 0.0
        product = f"{speed:>9.0f}{100e9 * speed / ceiling:>7.0f}%" if million else ""
        print(f"{name:<28}{count:>6.0f}{milliseconds:>9.2f}{product}")
