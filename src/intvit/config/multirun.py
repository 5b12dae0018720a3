"""A job of a multirun that fails or runs out of time does not end the others: what became of each is told at the end.

Jobs may run in other processes and on other machines (joblib, submitit); what they share is the sweep's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from intvit.errors import IntVitError, OutOfTime, one_line, where_to_report
from intvit.files import write_json

_NOTES = "INTVIT_MULTIRUN"  # in the environment of every job, which launchers hand on: the folder of the notes


class Notes(Callback):
    """Hydra calls it before the first job of a multirun."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder of this call's notes."""
        os.environ[_NOTES] = os.path.abspath(f"{config.hydra.sweep.dir}/.multirun-{uuid.uuid4().hex[:8]}")


def is_multirun() -> bool:
    """Whether this job is one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def attempt(job: Callable[[], None]) -> None:
    """Run one job; an error is printed and noted, and the next job goes on. Signals still end everything."""
    hydra = HydraConfig.get()
    folder = hydra.runtime.output_dir
    note: dict[str, Any] = {"overrides": list(hydra.overrides.task), "became": f"finished, {folder}", "failed": False}
    try:
        job()
    except OutOfTime:
        note["became"] = f"out of time, {folder}"
    except Exception as error:
        message = one_line(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {' '.join(str(error).split())}; {where_to_report()}"
        print(f"error: {message}", file=sys.stderr, flush=True)
        note |= {"became": f"failed: {message}", "failed": True}
    write_json(Path(os.environ[_NOTES]) / f"{hydra.job.num}.json", note)


def end() -> None:
    """After a multirun, say what became of each job, unless all finished. Raises IntVitError where one failed."""
    if _NOTES not in os.environ:
        return
    folder = Path(os.environ.pop(_NOTES))
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]
    shutil.rmtree(folder, ignore_errors=True)
    if all(note["became"].startswith("finished") for note in notes):
        return
    constant = set.intersection(*(set(note["overrides"]) for note in notes)) if len(notes) > 1 else set()
    for note in notes:
        said = " ".join(part for part in note["overrides"] if part not in constant)
        print(f"{said}: {note['became']}", flush=True)
    if failed := sum(note["failed"] for note in notes):
        raise IntVitError(
            f"{failed} of {len(notes)} jobs failed, named above; the same command with ckpt=last runs what is left"
        )
