"""The optimizer of a config, and its rates at one step."""

from __future__ import annotations

import hydra.utils
import torch
from torch import nn

from intvit.errors import IntVitError
from intvit.training.config import OptimizerConfig

# The last part of a parameter's name: tokens and positions, in whatever module they stand.
POSITIONS = ("cls_token", "dist_token", "reg_token", "pos_embed", "relative_position_bias_table")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Two groups: matrices, which decay, and biases, norms, tokens and positions, which do not.

    Both with rate 0 until `set_rates`. Raises IntVitError for a class that is not there or options that it refuses.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in POSITIONS
            (others if exempt else matrices).append(parameter)
    groups = [{"params": matrices, "decays": True}, {"params": others, "decays": False}]
    try:
        return hydra.utils.get_class(config.target)(groups, lr=0.0, **config.options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise IntVitError(f"optimizer.target={config.target} options={config.options}: {reason}") from error


def set_rates(optimizer: torch.optim.Optimizer, learning_rate: float, weight_decay: float) -> None:
    """Set both for the next step; groups that do not decay keep 0."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
