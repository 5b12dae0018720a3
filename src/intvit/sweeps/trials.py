"""One trial: a run of train.py started as a process, or as a SLURM job that a process waits for."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from intvit.errors import IntVitError
from intvit.processes import end_with_parent
from intvit.training.run_folder import METRICS, SUMMARY

BATCH_SCRIPT = Path("launch") / "slurm.sbatch"


class Trials:
    """Starts and stops the runs of a sweep in `folder`.

    command: what runs train.py, overrides are added; slurm: options of sbatch instead, None for a local process.
    A finished run that is started again only says so, and an unfinished one goes on from its checkpoint.
    """

    def __init__(self, folder: Path, command: str | None, slurm: str | None) -> None:
        if command is not None and slurm is not None:
            raise IntVitError("--command and --slurm: give one of them")
        script = BATCH_SCRIPT if slurm is not None else Path("train.py")
        if command is None and not script.is_file():
            raise IntVitError(f"{script} is not here: start the sweep in the repository's folder, or give --command")
        self.folder = folder
        self._command = shlex.split(command) if command is not None else [sys.executable, str(script)]
        self._slurm = None if slurm is None else shlex.split(slurm)

    def run_folder(self, number: int) -> Path:
        """Named after the sweep, because W&B tells runs of a project apart by it."""
        return self.folder / f"{self.folder.name}-{number:04d}"

    def log(self, number: int) -> Path:
        """What the run prints."""
        return self.run_folder(number).with_suffix(".log")

    def start(self, number: int, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin or go on with a trial."""
        run = [*overrides, f"hydra.run.dir={self.run_folder(number)}", "ckpt=last"]
        with self.log(number).open("ab") as log:
            return subprocess.Popen(
                [*self._launcher(number), *run],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "WANDB_RUN_GROUP": self.folder.name},
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its trials in order
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    def _launcher(self, number: int) -> list[str]:
        if self._slurm is None:
            return self._command
        # A job that outlived a killed sweep has the same name: a second one waits for it, then finds its run finished.
        job = [f"--job-name={self.run_folder(number).name}", "--dependency=singleton"]
        return ["sbatch", "--wait", f"--output={self.log(number)}", *job, *self._slurm, str(BATCH_SCRIPT)]

    def stop(self, number: int, process: subprocess.Popen[bytes]) -> None:
        """Ask a trial to save its step and end; does not wait for it."""
        if self._slurm is not None:
            subprocess.run(["scancel", "--quiet", f"--name={self.run_folder(number).name}"], check=False)
        else:
            process.terminate()

    def objective(self, number: int, name: str) -> float | None:
        """`name` (such as integer/top1) of the finished run; None where it has not finished or has no such figure."""
        path = self.run_folder(number) / SUMMARY
        if not path.is_file():
            return None
        mode, _, figure = name.partition("/")
        value = (json.loads(path.read_text()).get(mode) or {}).get(figure)
        return None if value is None or not math.isfinite(value) else float(value)

    def progress(self, number: int, name: str) -> dict[int, float]:
        """step -> `name`, for every validation so far."""
        path = self.run_folder(number) / METRICS
        if not path.is_file():
            return {}
        with path.open(newline="") as file:
            return {
                int(row["step"]): float(row[name])
                for row in csv.DictReader(file)
                if math.isfinite(float(row.get(name) or "nan"))
            }

    def last_words(self, number: int) -> str:
        """The last line that the run printed."""
        lines = self.log(number).read_text(errors="replace").split("\n") if self.log(number).is_file() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
