"""From the command line to one function call: Hydra composes the config, errors of the user become one line.

train.py and evaluate.py call `run_application`; nothing of Lightning or timm is imported here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from intvit.config import multirun
from intvit.config.environment import started_ranks
from intvit.config.presets import config_directory, for_hydra, register_resolvers
from intvit.errors import IntVitError, report_errors, wants_traceback

_FULL_ERROR = "HYDRA_FULL_ERROR"

register_resolvers()  # here, because a job of submitit imports this module before it composes its config


def run_application(task: Callable[[DictConfig], None], config_name: str) -> int:
    """Run `task` on the config `config_name` composed with the overrides of the command line; returns an exit code.

    A user's error is one line on standard error and SystemExit(1); any other exception, and every one under
    HYDRA_FULL_ERROR=1, keeps its traceback. A run folder that an error leaves empty is removed.
    """

    show_traceback = wants_traceback()
    with report_errors(show_traceback):  # now: Hydra makes the run folder before any other code of ours sees its name
        sys.argv[1:] = for_hydra(sys.argv[1:])

    def job(config: DictConfig) -> None:
        folder = run_directory()
        try:
            # Hydra adds a line of its own to every Exception that leaves a job, but not to SystemExit.
            with report_errors(show_traceback):
                _refuse_ranks_in_multirun(config)
                if multirun.is_multirun() and not show_traceback:
                    multirun.attempt(lambda: task(config))
                    _remove_empty(folder)
                else:
                    task(config)
        except BaseException:
            _remove_empty(folder)
            raise

    run = hydra.main(version_base="1.3", config_path=str(config_directory()), config_name=config_name)(job)
    with report_errors(show_traceback), _raising():
        run()
        multirun.end()
    return 0


def _refuse_ranks_in_multirun(config: DictConfig) -> None:
    """Lightning would start ranks that run the multirun's command again; launched ranks would each step through it.

    Either way they may draw different parameters, and train on a mixture of them. A job of submitit is one run.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN or "submitit" in hydra_config.launcher._target_:
        return
    devices = OmegaConf.select(config, "trainer.devices", default=1)
    if started_ranks().world_size > 1 or devices != 1:
        raise IntVitError(
            "several ranks in one multirun: each would go through the sweep by itself, perhaps with other parameters. "
            "Let the sweep start the ranks: python train.py -m hydra/launcher=slurm trainer=ddp ..., or intvit sweep "
            "--command 'torchrun --nproc-per-node=N train.py trainer=ddp' ..."
        )


def run_directory() -> Path:
    """The run folder of the current job, as Hydra composed it."""
    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Hydra prints exceptions and exits unless this variable is set."""
    before = os.environ.get(_FULL_ERROR)
    os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = before


def _remove_empty(folder: Path) -> None:
    for path in (folder, folder.parent):
        with contextlib.suppress(OSError):
            path.rmdir()  # only if empty
