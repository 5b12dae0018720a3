"""A job of a multirun that fails does not end the others: what became of each is noted, and told at the end.

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

from intvit.errors import IntVitError, one_line, where_to_report
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
    note: dict[str, Any] = {"overrides": list(hydra.overrides.task), "folder": hydra.runtime.output_dir, "error": None}
    try:
        job()
    except Exception as error:
        message = one_line(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {' '.join(str(error).split())}; {where_to_report()}"
        print(f"error: {message}", file=sys.stderr, flush=True)
        note["error"] = message
    write_json(Path(os.environ[_NOTES]) / f"{hydra.job.num}.json", note)


def end() -> None:
    """After a multirun, name the jobs that failed, and why, beside the others. Raises IntVitError where one failed."""
    if _NOTES not in os.environ:
        return
    folder = Path(os.environ.pop(_NOTES))
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]
    shutil.rmtree(folder, ignore_errors=True)
    failed = [note for note in notes if note["error"] is not None]
    if not failed:
        return
    constant = set.intersection(*(set(note["overrides"]) for note in notes)) if len(notes) > 1 else set()
    for note in notes:
        said = " ".join(part for part in note["overrides"] if part not in constant)
        print(f"{said}: {'failed: ' + note['error'] if note['error'] else 'finished, ' + note['folder']}", flush=True)
    raise IntVitError(f"{len(failed)} of {len(notes)} jobs failed, named above; the same command runs what is left")
