"""A model as executors of uint8 images: its float logits, and the integers of its integer mode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from intvit.evaluation.engine import Executor
from intvit.models.base import ImageModel
from intvit.program import Program
from intvit.quant import set_mode
from intvit.runtime import Runtime


def float_executor(model: nn.Module) -> Executor:
    """uint8 (B, C, H, W) -> logits float32 (B, classes), or of a dense model labels int32 (B, H, W).

    On the model's device; leaves the model in float mode.
    """

    @torch.no_grad()
    def execute(images: np.ndarray) -> np.ndarray:
        set_mode(model, "float")
        logits: Tensor = model(_on_device(model, images))
        if logits.ndim == 4:
            return np.asarray(logits.argmax(1).cpu(), dtype=np.int32)
        return logits.float().cpu().numpy()  # bfloat16 under autocast

    return execute


def integer_executor(model: nn.Module) -> Executor:
    """uint8 (B, C, H, W) -> the program's output int32, on the model's device; leaves the model in integer mode."""
    assert isinstance(model, ImageModel)

    def execute(images: np.ndarray) -> np.ndarray:
        set_mode(model, "integer")
        return model.integer_output(_on_device(model, images)).cpu().numpy()

    return execute


def dense_executor(model: nn.Module) -> Executor:
    """uint8 (B, C, H, W) -> dense scores int32 (B, classes, H, W); leaves the model in integer mode."""
    assert isinstance(model, ImageModel)

    def execute(images: np.ndarray) -> np.ndarray:
        set_mode(model, "integer")
        return model.integer_scores(_on_device(model, images)).cpu().numpy()

    return execute


def traced_scores(program: Program, runtime: Runtime) -> Executor:
    """The dense scores that a runtime computes before its labels, as its trace shows them."""
    name = next(operator.name for operator in program.operators if operator.output == program.scores)

    def execute(images: np.ndarray) -> np.ndarray:
        return next(values for traced, values in runtime.trace(images) if traced == name)

    return execute


def _on_device(model: nn.Module, images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).to(next(model.parameters()).device)
