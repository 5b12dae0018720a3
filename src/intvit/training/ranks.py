"""Ranks: that a launcher started as many as the config trains with, that all do the same run, how they part.

srun, torchrun or submitit start them. Lightning could run the command again for every rank, where a sweep would draw
other parameters: it is refused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from intvit.config.environment import is_shell, started_ranks, tasks_on_nodes, tasks_without_srun
from intvit.errors import IntVitError
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.checkpoints import Interruption
from intvit.training.config import TrainerConfig

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.strategies import ParallelStrategy  # noqa: E402

PATIENCE = timedelta(seconds=2)  # of one attempt to reach the first rank
STEP = 0.1  # seconds between looks at who is there


def world_size(config: TrainerConfig) -> int:
    """How many ranks train. Raises IntVitError where the launcher's number of ranks is not the config's."""
    if not config.strategy.startswith(("auto", "ddp", "single_device")):
        raise IntVitError(
            f"trainer.strategy={config.strategy}: integers are derived from whole weights, so every rank holds the "
            "whole model; say trainer=ddp"
        )
    ranks, tasks = started_ranks(), tasks_without_srun()
    if tasks > 1 and ranks.launcher is None and ("ddp" in config.strategy or not is_shell()):
        raise IntVitError(
            f"this SLURM job has {tasks} tasks, but one process was started: srun python train.py ..., or "
            "SLURM_NTASKS=1 in the environment for this process alone"
        )
    if "," in tasks_on_nodes():
        raise IntVitError(
            f"srun placed {tasks_on_nodes()} tasks on {ranks.nodes} nodes; every node needs the same number: "
            "--ntasks-per-node=N"
        )
    devices = config.devices if isinstance(config.devices, int) else len(config.devices)
    if devices * config.num_nodes == ranks.world_size:
        return ranks.world_size
    given = f"trainer.devices={config.devices} trainer.num_nodes={config.num_nodes}"
    if ranks.launcher is None:
        raise IntVitError(
            f"{given}: ranks are started by a launcher, "
            f"not by this process: torchrun --nproc-per-node={devices} train.py trainer=ddp ..., or launch/slurm.sbatch"
        )
    way = "leave both out" if "ddp" in config.strategy else "say trainer=ddp"
    raise IntVitError(f"{ranks.launcher} started {ranks.world_size} ranks, but {given}: {way}")


@contextlib.contextmanager
def met_ranks(
    trainer: pl.Trainer, facts: Mapping[str, Any], interruption: Interruption, minutes: float
) -> Iterator[None]:
    """Let the ranks meet before the block and part after it, unless an error leaves them in the middle of something.

    Raises IntVitError on all of them where their `facts` differ: they are about to do different things; and where
    others have not come within so many minutes. A signal ends the waiting.
    """
    if trainer.world_size == 1:
        yield
        return
    store = _meeting(trainer, interruption, minutes)
    # `fit` connects the ranks too, to no effect then; but they have to agree before the first of them writes anything.
    trainer.strategy.setup_environment()
    del store  # until here it kept the first rank's server alive
    gathered: list[Mapping[str, Any]] = [{}] * trainer.world_size
    torch.distributed.all_gather_object(gathered, dict(facts))
    _compare(gathered)
    try:
        yield
    except SystemExit:  # agreed upon
        torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()  # left to the interpreter's exit it may abort


def _meeting(trainer: pl.Trainer, interruption: Interruption, minutes: float) -> TCPStore:
    """Wait for all ranks where PyTorch will let them meet, but in small steps: its own waiting hears no signal."""
    assert isinstance(trainer.strategy, ParallelStrategy)
    place, rank, size = trainer.strategy.cluster_environment, trainer.global_rank, trainer.world_size
    assert place is not None
    where, deadline = f"{place.main_address}:{place.main_port}", time.monotonic() + 60 * minutes
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's own process serves
    # torchrun's server stays when it starts the ranks again.
    prefix = f"intvit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    names = {other: f"{prefix}/{other}" for other in range(size)}
    store: TCPStore | None = None
    refused = ""
    missing = list(range(size))
    while missing:
        if interruption.action:
            interruption.end(interruption.action, "while it waited for other ranks", went_on=False, speaks=rank == 0)
        if time.monotonic() > deadline:
            absent = ", ".join(map(str, missing)) if store is not None else f"0, expected at {where}{refused},"
            raise IntVitError(
                f"rank {rank} of {size} has waited {minutes:g} minutes for rank {absent}: look at what they say; "
                "trainer.wait_minutes=N waits longer"
            )
        if store is None:
            try:
                serves = rank == 0 and not agent
                store = TCPStore(
                    str(place.main_address),
                    place.main_port,
                    size,
                    is_master=serves,
                    timeout=PATIENCE,
                    wait_for_workers=False,
                    multi_tenant=True,
                )
                store.set(names[rank], "here")
            except RuntimeError as error:  # the first rank is not there yet, or an earlier start still has its port
                refused = f" ({str(error).splitlines()[0]})"
                time.sleep(STEP)
                continue
        missing = [other for other in missing if not store.check([names[other]])]
        if missing:
            time.sleep(STEP)
    assert store is not None
    return store


def _compare(gathered: Sequence[Mapping[str, Any]]) -> None:
    for name, first in gathered[0].items():
        for rank, other in enumerate(gathered):
            if other[name] != first:
                raise IntVitError(
                    f"ranks differ in their {name}: {first} on rank 0, {other[name]} on rank {rank}; every rank needs "
                    "the same command, environment and files"
                )
