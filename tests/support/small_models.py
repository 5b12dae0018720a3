"""A shallow ViT, images for it, and the comparison of its runtimes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.config.presets import presets
from intvit.export.record import record
from intvit.models import create_model
from intvit.program import load_checkpoint, save_checkpoint
from intvit.quant import trace
from intvit.runtime import load_runtime
from intvit.runtime.native.runtime import supported
from tests.support.presets import quant_of

PRESETS = [name for name in presets("quant") if name != "fp32"]

SIZE = 32


def small_model(preset: str, overrides: list[str] | None = None, seed: int = 0, depth: int = 2) -> nn.Module:
    """A shallow ViT with lively random weights."""
    torch.manual_seed(seed)
    model = create_model(
        "deit_t",
        image_size=SIZE,
        patch_size=8,
        num_classes=10,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        quant=quant_of(preset, overrides),
        width=48,
        depth=depth,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.3, 2.0)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.mul_(4.0)
        model.cls_token.normal_()
    return model


def random_images(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8))


def extreme_images(count: int) -> torch.Tensor:
    """Black, white, and one channel at an end: inputs that saturate."""
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    images[1] = 255
    images[2, 0] = 255
    images[3:, :, ::2] = 255
    return images


def prepared(model: nn.Module, after=None) -> nn.Module:
    """Calibrated, in integer and eval mode."""
    calibrate(model, [random_images(8, 99)])
    if after is not None:
        after(model)
    return model


def differences(model: nn.Module, images: torch.Tensor, folder) -> list[str]:
    """Operators whose integers differ between the model, torch and numpy, and runtimes whose scores do."""
    save_checkpoint(record(model), folder)
    program = load_checkpoint(folder)
    scores = model.integer_scores(images).numpy()
    runtimes = {name: load_runtime(program, name) for name in ("torch", "numpy", "onnx")}
    wrong = []
    traced = trace(model, images)
    traces = {name: dict(runtimes[name].trace(images.numpy())) for name in ("torch", "numpy")}
    assert list(traces["torch"]) == [operator.name for operator in program.operators]
    for name, value in traces["torch"].items():
        if not np.array_equal(value, traces["numpy"][name]):
            wrong.append(f"{name}: torch and numpy")
        if name in traced and not np.array_equal(value.ravel(), traced[name].ravel()):
            wrong.append(f"{name}: model and torch")
    if supported():
        runtimes["native"] = load_runtime(program, "native")
    wrong += [f"scores: {name}" for name, run in runtimes.items() if not np.array_equal(scores, run(images.numpy()))]
    assert sum(name in traced for name in traces["torch"]) > len(program.operators) // 3
    return wrong
