"""Exponential moving average of the weights: what is validated, saved as the model, and exported."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from intvit.torchvision_fix import ensure_torchvision
from intvit.training.schedule import Span

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.callbacks import WeightAveraging  # noqa: E402


class PhaseAwareAveraging(WeightAveraging):
    """Averages parameters within a phase; the next phase starts from the average.

    Ranges (buffers) are not averaged, they follow the data by themselves. The average starts at the first weights of
    a phase and forgets them quickly: its decay grows as (1 + n) / (10 + n) up to `decay`.
    """

    def __init__(self, decay: float) -> None:
        def average(old: Tensor, new: Tensor, updates: Tensor | int) -> Tensor:
            count = float(updates)
            return old.lerp(new, 1.0 - min(decay, (1.0 + count) / (10.0 + count)))

        super().__init__(use_buffers=False, avg_fn=average)

    def on_phase_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, span: Span) -> None:
        """Make the average the weights, and let the next update start a new average."""
        assert self._average_model is not None
        if int(self._average_model.n_averaged) > 0:
            self._copy_average_to_current(pl_module)
            self._average_model.n_averaged.zero_()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the average the weights for good: nothing is swapped in the evaluation that follows."""
        assert self._average_model is not None
        if int(self._average_model.n_averaged) > 0:
            super().on_train_end(trainer, pl_module)
        self._average_model = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model, beside the weights that training goes on with."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
