"""The folder of a run: what an existing one means for a new start, and how it is written.

It holds config.yaml, metrics.csv, checkpoints/last.ckpt and, once the run has ended, summary.json; evaluate.py adds
the integer checkpoint and evaluation.json. No torch.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from intvit.config.environment import is_first_rank, is_restart
from intvit.config.identity import differences, identity_hash
from intvit.config.run_files import CONFIG, LAST, read_config
from intvit.errors import IntVitError
from intvit.files import write_text

METRICS = "metrics.csv"
SUMMARY = "summary.json"
OWN = (
    CONFIG,
    METRICS,
    SUMMARY,
    "checkpoints",
    "integer",
    "evaluation.json",
    "integer.evaluation.json",
    "integer.onnx",
    "overlays.png",
)


@dataclass(frozen=True)
class Start:
    """How a run begins: from `checkpoint`, or from nothing; `summary` is set where it has ended already.

    clear: what the folder holds is to be deleted first.
    """

    checkpoint: Path | None
    summary: dict[str, Any] | None = None
    clear: bool = False


def prepare(folder: Path, config: Mapping[str, Any], ckpt: str | None, fresh: bool) -> Start:
    """Decide how to begin in `folder`; nothing is changed, fresh=true counts what it holds as absent.

    A job that SLURM requeues or torchrun restarts goes on from its own last checkpoint, whatever `ckpt` and `fresh`
    said when it began.

    config: the plain config. Raises IntVitError for a folder of another experiment, and for an unfinished run unless
    `ckpt` says to go on or `fresh` to start over.
    """
    if fresh and ckpt == "last":
        raise IntVitError("fresh=true deletes what ckpt=last would go on from: give one of them")
    if is_restart():
        fresh = False
        if ckpt is None or (folder / LAST).is_file():
            ckpt = "last"
    given = None
    if ckpt not in (None, "last"):
        given = Path(str(ckpt)) / LAST if Path(str(ckpt)).is_dir() else Path(str(ckpt))
        if not given.is_file():
            raise IntVitError(f"ckpt={ckpt}: no such checkpoint")
        if fresh and folder.resolve() in given.resolve().parents:
            raise IntVitError(f"fresh=true deletes {given}, which ckpt= would go on from: give one of them, or copy it")
    if fresh or not (folder / CONFIG).is_file():
        return Start(given, clear=fresh)
    changed = differences(read_config(folder), config)
    if changed and is_first_rank():
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise IntVitError(
            f"{folder} holds another experiment ({'; '.join(changed[:3])}{more}): "
            "give another hydra.run.dir, or fresh=true to delete it"
        )
    if (folder / SUMMARY).is_file():
        return Start(None, json.loads((folder / SUMMARY).read_text()))
    has_checkpoint = (folder / LAST).is_file()
    if ckpt == "last" or (has_checkpoint and given is not None and given.samefile(folder / LAST)):
        return Start(folder / LAST if has_checkpoint else None)
    if has_checkpoint and is_first_rank():
        raise IntVitError(f"{folder} holds an unfinished run: go on with ckpt=last, or start over with fresh=true")
    return Start(given)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """What says whether a run has been at work in the folder: file -> its number and time of writing."""
    found = {}
    for name in (CONFIG, str(LAST), SUMMARY):
        if (path := folder / name).is_file():
            status = path.stat()
            found[name] = (status.st_ino, status.st_mtime_ns)
    return found


def clear(folder: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for name in OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def commit() -> str | None:
    """The git commit of the code that runs, `-dirty` added where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """config.yaml: every value as composed, resolved."""
    header = f"# experiment {identity_hash(config)}; evaluate with: python evaluate.py ckpt={folder}\n"
    write_text(folder / CONFIG, header + OmegaConf.to_yaml(OmegaConf.create(dict(config))))
