"""Ranks: that a launcher started as many as the config trains with, that all do the same run, how they part.

srun, torchrun or submitit start them. Lightning could run the command again for every rank, where a sweep would draw
other parameters: it is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from intvit.config.environment import started_ranks, tasks_without_srun
from intvit.errors import IntVitError
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.config import TrainerConfig

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402


def world_size(config: TrainerConfig) -> int:
    """How many ranks train. Raises IntVitError where the launcher's number of ranks is not the config's."""
    ranks, tasks = started_ranks(), tasks_without_srun()
    if ranks.launcher is None and tasks > 1:
        raise IntVitError(f"this SLURM job has {tasks} tasks, but one process was started: srun python train.py ...")
    devices = config.devices if isinstance(config.devices, int) else len(config.devices)
    if devices * config.num_nodes == ranks.world_size:
        return ranks.world_size
    if ranks.launcher is None:
        raise IntVitError(
            f"trainer.devices={config.devices} trainer.num_nodes={config.num_nodes}: ranks are started by a launcher, "
            f"not by this process: torchrun --nproc-per-node={devices} train.py trainer=ddp ..., or launch/slurm.sbatch"
        )
    raise IntVitError(
        f"{ranks.launcher} started {ranks.world_size} ranks, but trainer.devices={config.devices} "
        f"trainer.num_nodes={config.num_nodes}: say trainer=ddp"
    )


@contextlib.contextmanager
def met_ranks(trainer: pl.Trainer, facts: Mapping[str, Any]) -> Iterator[None]:
    """Let the ranks meet before the block and part after it, unless an error leaves them in the middle of something.

    Raises IntVitError on all of them where their `facts` differ: they are about to do different things.
    """
    if trainer.world_size == 1:
        yield
        return
    # `fit` connects the ranks too, to no effect then; but they have to agree before the first of them writes anything.
    trainer.strategy.setup_environment()
    gathered: list[Mapping[str, Any]] = [{}] * trainer.world_size
    torch.distributed.all_gather_object(gathered, dict(facts))
    _compare(gathered)
    try:
        yield
    except SystemExit:  # agreed upon
        torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()  # left to the interpreter's exit it may abort


def _compare(gathered: Sequence[Mapping[str, Any]]) -> None:
    for name, first in gathered[0].items():
        for rank, other in enumerate(gathered):
            if other[name] != first:
                raise IntVitError(
                    f"ranks differ in their {name}: {first} on rank 0, {other[name]} on rank {rank}; every rank needs "
                    "the same command, environment and files"
                )
