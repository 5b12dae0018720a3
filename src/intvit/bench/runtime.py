"""The native runtime beside other inference runtimes, on one model with random weights: interleaved calls, medians.

Native also runs against itself, which shows how much of a difference is the machine's.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intvit.bench.peers import PACKAGES, PEERS, Run
from intvit.calibration import calibrate
from intvit.data.presets import photo_config
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.models import MODELS, load_weights
from intvit.models.presets import photo_model
from intvit.program import Program
from intvit.program.cost import macs, operator_macs
from intvit.runtime.fusion import Fusion
from intvit.runtime.native.runtime import NativeRuntime
from intvit.runtime.native.steps import Kind, Step
from intvit.torchvision_fix import ensure_torchvision

CONTROL = "native again"
QUIET = 0.1  # the most that native may differ from itself in a round for its ratios to others to be told
LEAST_COSINE = 0.9  # of a peer that computes the same model, be it in 8 bits


@dataclass(frozen=True)
class RuntimeSettings:
    """An architecture, the preset of its integer program, images and threads of a call, timed calls.

    image_size: (height, width). classes: None for ImageNet's. head: that labels every pixel; peers then give logits of
    every pixel, and native goes on to the labels.
    """

    model: str
    quant: str
    batch: int
    threads: int
    rounds: int
    image_size: tuple[int, int] = (224, 224)
    classes: int | None = None
    head: Literal["linear"] | None = None


class DenseModel(nn.Module):
    """timm's float model with a linear layer on its tokens: images (B, 3, H, W) -> logits (B, classes, H, W)."""

    def __init__(self, backbone: Any, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size  # of the images
        self.backbone, self.head = backbone, nn.Linear(backbone.num_features, classes)
        self.prefix, self.grid = getattr(backbone, "num_prefix_tokens", 0), backbone.patch_embed.grid_size

    def forward(self, images: Tensor) -> Tensor:
        scores = self.head(self.backbone.forward_features(images))  # (B, N, classes), or of Swin (B, h, w, classes)
        scores = scores if scores.dim() == 4 else scores[:, self.prefix :].unflatten(1, self.grid)
        return F.interpolate(scores.permute(0, 3, 1, 2), size=self.size, mode="bilinear", align_corners=False)


def models(settings: RuntimeSettings) -> tuple[nn.Module, Program, Tensor]:
    """timm's float model with lively random weights, the integer program of the same, and uint8 images [B, 3, H, W]."""
    ensure_torchvision()
    import timm

    data = replace(photo_config(), image_size=settings.image_size)
    if settings.classes is not None:
        data = replace(data, num_classes=settings.classes, class_names="indices")
    classes = data.num_classes
    torch.manual_seed(0)
    form: dict[str, Any] = {"num_classes": 0 if settings.head else classes, "img_size": data.image_size}
    model = timm.create_model(MODELS[settings.model].timm, **form)
    model = (DenseModel(model, classes, data.image_size) if settings.head else model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    pixels = torch.randint(0, 256, (settings.batch, 3, *data.image_size), dtype=torch.uint8)
    integer = photo_model(settings.model, settings.quant, data, settings.head)
    load_weights(integer, {name.removeprefix("backbone."): each for name, each in model.named_parameters()})
    calibrate(integer, [pixels])
    return model, record(integer), pixels


def measure(
    settings: RuntimeSettings,
    peers: Sequence[str],
    model: nn.Module,
    program: Program,
    native: NativeRuntime,
    pixels: Tensor,
) -> dict[str, Any]:
    """What `--json` writes; peers: names of PEERS."""
    data = photo_config()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    images = (pixels / 255 - mean) / std
    with torch.inference_mode():
        expected = model(images).numpy()
    runs: dict[str, Callable[[], Any]] = {"native": lambda: native(pixels.numpy())}  # the control comes last in a round
    cosines = {"native": _cosine(_scores(native, pixels.numpy()) * program.score_scale, expected)}
    missing = {}
    for name in peers:
        try:
            run = PEERS[name](model, images, settings.threads)
        except ImportError as error:
            missing[name] = f"not installed: {error.name}"
            continue
        cosines[name] = _cosine(run(images), expected)
        runs[name] = _bound(run, images)
    runs[CONTROL] = runs["native"]
    times = _interleaved(runs, settings.rounds, cpu=settings.threads == 1)
    for name, cosine in cosines.items():
        if cosine < LEAST_COSINE:
            raise IntVitError(f"{name} does not compute the float model: cosine of its logits {cosine:.3f}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: [a / b for a, b in zip(times[name], times["native"], strict=True)] for name in runs}
    images_a_second = 1e3 * settings.batch / medians["native"]
    return {
        "machine": machine(),
        "settings": asdict(settings),
        "clock": "CPU" if settings.threads == 1 else "wall",
        "path": native.path,
        "memory_mib": native.memory / 2**20,
        "gmacs": macs(program) * settings.batch / 1e9,
        "native_ms": medians["native"],
        "native_cosine": cosines["native"],
        "share_of_ceiling": macs(program) * images_a_second / (native.ceiling() * native.threads),
        "control": {"ratio": statistics.median(ratios[CONTROL]), "spread": spread(ratios[CONTROL])},
        "peers": {
            name: {
                "ms": medians[name],
                "ratio": statistics.median(ratios[name]),
                "spread": spread(ratios[name]),
                "cosine": cosines[name],
                "version": version(PACKAGES[name.partition("_")[0]]),
            }
            for name in runs
            if name not in ("native", CONTROL)
        },
        "missing": missing,
    }


def spread(ratios: Sequence[float]) -> float:
    """How far the middle 80 % of the ratios reach from their median, as a share of it."""
    ordered, rank = sorted(ratios), len(ratios) // 10
    middle = statistics.median(ordered)
    return max(ordered[-1 - rank] - middle, middle - ordered[rank]) / middle


def verdict(control: Mapping[str, float]) -> str:
    """What native against itself says of the machine: which ratios can be told from 1, or that none can."""
    off = max(abs(control["ratio"] - 1), control["spread"])
    seen = f"native against itself: {control['ratio']:.2f}, 80 % of the rounds within {100 * control['spread']:.0f} %"
    if off > QUIET:
        return f"{seen}; the machine is too noisy to tell: stop what else runs, or take more --rounds"
    return f"{seen}; ratios beyond that are the runtimes'"


def _bound(run: Run, images: Tensor) -> Callable[[], Any]:
    return lambda: run(images)


def _scores(native: NativeRuntime, pixels: np.ndarray) -> np.ndarray:
    """What the output is made of: itself, or the scores behind labels."""
    if native.program.form != "labels":
        return native(pixels)
    return next(value for name, value in native.trace(pixels) if name == native.program.scores)


def _cosine(logits: np.ndarray, expected: np.ndarray) -> float:
    """Least cosine of an image's logits, less their mean."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (logits, expected))
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
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


def step_macs(program: Program, steps: Sequence[Step]) -> list[int]:
    """MACs of every step for one image: those of the operators that it stands for."""
    groups, by_name = Fusion(program).groups, {operator.name: operator for operator in program.operators}
    counts = []
    for step in steps:
        group = groups.get(step.name)
        fused = group is not None and step.name == group.last.name
        members = vars(group).values() if fused else (by_name[step.name],)
        product = step.kind in (Kind.LINEAR, Kind.MATMUL, Kind.ATTENTION)  # a copy has an operator's name, too
        counts.append(sum(operator_macs(program, member) for member in members) if product else 0)
    return counts
