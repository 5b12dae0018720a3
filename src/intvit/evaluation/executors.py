"""A model as executors of uint8 images: its float logits, and the integer scores of its integer mode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from intvit.evaluation.engine import Executor
from intvit.models.base import ImageModel
from intvit.quant import set_mode


def float_executor(model: nn.Module) -> Executor:
    """uint8 (B, C, H, W) -> logits float32 (B, classes), on the model's device; leaves the model in float mode."""

    @torch.no_grad()
    def execute(images: np.ndarray) -> np.ndarray:
        set_mode(model, "float")
        logits: Tensor = model(_on_device(model, images))
        return logits.float().cpu().numpy()  # bfloat16 under autocast

    return execute


def integer_executor(model: nn.Module) -> Executor:
    """uint8 (B, C, H, W) -> scores int32 (B, classes), on the model's device; leaves the model in integer mode."""
    assert isinstance(model, ImageModel)

    def execute(images: np.ndarray) -> np.ndarray:
        set_mode(model, "integer")
        return model.integer_scores(_on_device(model, images)).cpu().numpy()

    return execute


def _on_device(model: nn.Module, images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).to(next(model.parameters()).device)
