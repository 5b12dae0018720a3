"""best.ckpt and step-N.ckpt: which states are kept beside last.ckpt, when they are written and let go of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intvit.config.run_files import BEST
from intvit.torchvision_fix import ensure_torchvision

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402


@dataclass(frozen=True)
class KeptCheckpoints:
    """Which states are kept beside last.ckpt: a function of the history alone, so that a resumed run agrees.

    watched: mode and figure of the validations whose best states are kept, None for none; count: how many of them;
    every_epochs: and the state after every so many epochs.
    """

    folder: Path
    watched: tuple[str, str] | None
    count: int
    every_epochs: int | None

    def save(self, trainer: pl.Trainer, history: Sequence[Mapping[str, Any]], *, epoch_ended: bool) -> None:
        """After a validation or an epoch: save the state where it is to be kept, and let go of what no longer is.

        history: the validations of this folder. All ranks call it.
        """
        epoch, step = trainer.current_epoch, trainer.global_step
        ranked = self._ranked(history)
        if ranked and ranked[0] == step:
            trainer.save_checkpoint(self.folder / BEST.name)
        every = self.every_epochs
        best = ranked[: self.count] if self.count > 1 else []
        steady = {entry["step"] for entry in history if every and not (entry["epoch"] + 1) % every}
        if step in best or (epoch_ended and every and not (epoch + 1) % every):
            trainer.save_checkpoint(self._of(step))
        if trainer.is_global_zero:
            for old in {*ranked} - {*best} - steady:
                self._of(old).unlink(missing_ok=True)

    def _ranked(self, history: Sequence[Mapping[str, Any]]) -> list[int]:
        """Steps of the validations that count, the best first; among equal ones the earlier."""
        if self.watched is None:
            return []
        mode, figure = self.watched
        entries = [entry for entry in history if entry["mode"] == mode and figure in entry]
        return [entry["step"] for entry in sorted(entries, key=lambda entry: (-entry[figure], entry["step"]))]

    def _of(self, step: int) -> Path:
        return self.folder / f"step-{step}.ckpt"
