"""Names of the files of a run folder that others read, and its config. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from intvit.config.identity import with_younger
from intvit.errors import IntVitError

CONFIG = "config.yaml"
LAST = Path("checkpoints") / "last.ckpt"
UNFINISHED = Path("checkpoints") / "calibration.pt"  # until calibration has ended
BEST = Path("checkpoints") / "best.ckpt"
# Key of a checkpoint of train.py under which it keeps more than Lightning does.
STATE = "intvit"


def read_config(folder: Path) -> dict[str, Any]:
    """The plain config of a run folder, with keys that are younger than it. Raises IntVitError where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise IntVitError(f"{folder} holds no {CONFIG}: not the folder of a run; train.py prints it at its end")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise IntVitError(f"{path} is not readable: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise IntVitError(f"{path} is not a config")
    return with_younger({str(key): value for key, value in values.items()})


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder that a .ckpt file lies in, at its top or one folder down; None for a file from elsewhere."""
    return next((folder for folder in checkpoint.resolve().parents[:2] if (folder / CONFIG).is_file()), None)
