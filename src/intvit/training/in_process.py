"""Training from a program: what `python train.py` with the same overrides does, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from intvit.config.presets import compose_run
from intvit.training import entry


def train(*overrides: str, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Train as `python train.py OVERRIDES` does; returns the summary, which summary.json of the run folder holds, too.

    overrides: as on the command line, such as "model=deit_s", "quant=ivit8", "schedule.qat.epochs=3". folder: the run
    folder; None for outputs/NAME-HASH under the current folder, the same one as on the command line. A run that has
    ended returns its summary again. `float` and `integer` (None without quantization) of the summary hold `top1` and
    `top5` in percent; `intvit.evaluation.entry.evaluate` exports and checks the run as evaluate.py does.

    Raises IntVitError for whatever is wrong with overrides, data, weights or the folder, before anything is written.

        >>> summary = intvit.train("model=deit_s", "quant=ivit8")     # doctest: +SKIP
        >>> summary["integer"]["top1"]                                # doctest: +SKIP
        97.5
    """
    values, usual = compose_run(overrides)
    return entry.train(values, usual if folder is None else Path(folder))
