"""How a launcher started this process: which rank it is, of how many, on how many nodes. No torch.

torchrun and srun tell it through the environment, before the ranks have met.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """launcher: `torchrun`, `srun`, or None for a process that the user started alone."""

    launcher: str | None
    rank: int
    world_size: int
    nodes: int

    @property
    def per_node(self) -> int:
        """Ranks on each node, which launchers keep equal."""
        return self.world_size // self.nodes


def started_ranks() -> Ranks:
    """The ranks that this process is one of."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:  # first: torchrun may itself run in a step of srun
        world_size = int(environment["WORLD_SIZE"])
        return Ranks("torchrun", int(environment["RANK"]), world_size, int(environment["GROUP_WORLD_SIZE"]))
    # A batch script has SLURM's variables too; only srun's tasks belong to a numbered step.
    if "SLURM_STEP_ID" in environment and "SLURM_NTASKS" in environment:
        world_size = int(environment["SLURM_NTASKS"])
        return Ranks("srun", int(environment["SLURM_PROCID"]), world_size, int(environment["SLURM_NNODES"]))
    return Ranks(None, 0, 1, 1)


def is_first_rank() -> bool:
    """Whether this process is the one that writes."""
    return started_ranks().rank == 0


def tasks_without_srun() -> int:
    """Tasks of the SLURM batch job whose script called this process directly, without srun; 1 where that is fine."""
    if "SLURM_STEP_ID" in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return 1
    return int(os.environ.get("SLURM_NTASKS", "1"))


def is_restart() -> bool:
    """Whether SLURM or torchrun started the same command before: a requeued job, a restarted worker."""
    return any(int(os.environ.get(key, "0")) > 0 for key in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
