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


FIRST_RESERVED_STEP = 0xFFFFFFF0  # SLURM's numbers of steps from here on are shells of salloc and batch scripts


def started_ranks() -> Ranks:
    """The ranks that this process is one of."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:  # first: torchrun may itself run in a step of srun
        world_size = int(environment["WORLD_SIZE"])
        return Ranks("torchrun", int(environment["RANK"]), world_size, int(environment["GROUP_WORLD_SIZE"]))
    if "SLURM_NTASKS" in environment and _in_step():
        # The step's own counts: SLURM_NTASKS may be the job's.
        world_size = int(environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"]))
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment["SLURM_NNODES"]))
        return Ranks("srun", int(environment["SLURM_PROCID"]), world_size, nodes)
    return Ranks(None, 0, 1, 1)


def _in_step() -> bool:
    """Whether srun started this process as one of its tasks: batch scripts and shells have SLURM's variables, too."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < FIRST_RESERVED_STEP


def tasks_on_nodes() -> str:
    """How srun placed its tasks, such as `3,2` or `2(x4)`; a comma: nodes differ. Empty without srun."""
    environment = os.environ
    placed = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    return placed if _in_step() else ""


def is_first_rank() -> bool:
    """Whether this process is the one that writes."""
    return started_ranks().rank == 0


def tasks_without_srun() -> int:
    """Tasks of the SLURM job that this process is in without srun having started it; 1 outside of one."""
    return 1 if _in_step() else int(os.environ.get("SLURM_NTASKS", "1"))


def is_shell() -> bool:
    """Whether a person works in this SLURM job: a shell of salloc, or of srun under Lightning's names for one."""
    interactive = "SLURM_STEP_ID" in os.environ and not _in_step()
    return interactive or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def is_restart() -> bool:
    """Whether SLURM or torchrun started the same command before: a requeued job, a restarted worker."""
    return any(int(os.environ.get(key, "0")) > 0 for key in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
