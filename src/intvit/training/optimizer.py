"""The optimizer of a config, and its rates at one step."""

from __future__ import annotations

import re
from collections import defaultdict

import hydra.utils
import torch
from hydra.errors import InstantiationException
from torch import nn

from intvit.errors import IntVitError
from intvit.models.weights import is_classifier
from intvit.training.config import OptimizerConfig
from intvit.training.schedule import ScheduleConfig, TrainingPhase
from intvit.training.timeline import training_phases

# The last part of a parameter's name: tokens and positions, in whatever module they stand.
POSITIONS = ("cls_token", "dist_token", "reg_token", "pos_embed", "relative_position_bias_table")
_BLOCK = re.compile(r"((?:layers\.\d+\.)?blocks\.\d+)\.")


def build_optimizer(model: nn.Module, config: OptimizerConfig, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """Groups of matrices, which decay, and of biases, norms, tokens, positions and learned steps, which do not.

    Two of them; where a phase of the schedule has a layer_decay, two for the classifier and as many for every block.
    All with rate 0 until `set_rates`. Raises IntVitError for a class that is not there or options that it refuses.
    """
    layered = any(phase.layer_decay is not None for phase in training_phases(schedule).values())
    distances = distances_from_classifier(model) if layered else {}
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in POSITIONS
            members[distances.get(name, 0), not exempt].append(parameter)
    if not layered:  # both, as they stand in the checkpoints of runs, though one may be empty
        members = {(0, decays): members[0, decays] for decays in (True, False)}
    groups = [
        {"params": members[distance, decays], "decays": decays, **({"distance": distance} if layered else {})}
        for distance, decays in sorted(members, key=lambda key: (key[0], not key[1]))
    ]
    try:
        make = hydra.utils.instantiate({"_target_": config.target, "_partial_": True})  # get_class logs what it raises
        return make(groups, lr=0.0, **config.options)
    except (InstantiationException, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if isinstance(error, TypeError):
            reason += f"; to begin without options: optimizer=base +optimizer.target={config.target}"
        raise IntVitError(f"optimizer.target={config.target} options={config.options}: {reason}") from error


def distances_from_classifier(model: nn.Module) -> dict[str, int]:
    """Blocks from each parameter, by name, to the classifier: of the last norm 0, of the embedding their number + 1.

    As in BEiT's layer decay (arXiv 2106.08254, appendix), also for stages of blocks: what merges patches belongs to the
    block behind it.
    """
    names = [name for name, _ in model.named_parameters()]
    blocks = list(dict.fromkeys(match[1] for name in names if (match := _BLOCK.match(name))))
    first = {block.rpartition("blocks.")[0]: blocks.index(block) for block in reversed(blocks)}
    count, distances = len(blocks), {}
    for name in names:
        if match := _BLOCK.match(name):
            distances[name] = count - blocks.index(match[1])
        elif merges := re.match(r"layers\.\d+\.", name):
            distances[name] = count - first[merges[0]]
        else:
            behind = is_classifier(name) or name.startswith(("norm.", "fc_norm.", "attn_pool.", "mean_head."))
            distances[name] = 0 if behind else count + 1
    return distances


def set_rates(optimizer: torch.optim.Optimizer, phase: TrainingPhase, learning_rate: float) -> None:
    """Set rates and weight decay of a phase for the next step; groups that do not decay keep 0."""
    vectors = 1.0 if phase.vector_lr_ratio is None else phase.vector_lr_ratio
    for group in optimizer.param_groups:
        rate = learning_rate * (phase.layer_decay or 1.0) ** group.get("distance", 0)
        group["lr"] = rate if group["decays"] else rate * vectors
        group["weight_decay"] = phase.weight_decay if group["decays"] else 0.0
