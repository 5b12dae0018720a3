"""Exponential moving average of the weights: what is validated, saved as the model, and exported.

Lightning's own averages across phases, and what it would take to begin a new average is private to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intvit.torchvision_fix import ensure_torchvision
from intvit.training.module import training_module

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402


class PhaseAwareAveraging(pl.Callback):
    """Averages parameters within a phase; the next phase starts from the average.

    Ranges (buffers) are not averaged, they follow the data by themselves. The average starts at the first weights of
    a phase and forgets them quickly: its decay grows as (1 + n) / (10 + n) up to `decay`.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}  # by parameter; empty before the first step of a phase
        self._updates = 0
        self._step = 0  # that of the last update

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        self._average = {name: average.to(pl_module.device) for name, average in self._average.items()}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where the module is about to enter a phase, end the average of the last one."""
        if training_module(pl_module).next_phase is not None:
            self._adopt(pl_module)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights of an optimizer step."""
        if trainer.global_step == self._step:  # gradients accumulate
            return
        self._step = trainer.global_step
        keep = min(self.decay, (1.0 + self._updates) / (10.0 + self._updates))
        parameters = dict(pl_module.named_parameters())
        if self._updates:
            current = [parameters[name].detach() for name in self._average]
            torch._foreach_lerp_(list(self._average.values()), current, 1.0 - keep)
        else:
            self._average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._updates += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the average the weights for good: nothing is swapped in the evaluation that follows."""
        self._adopt(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        for name, average in self._average.items():
            current = parameters[name].clone()
            parameters[name].copy_(average)
            average.copy_(current)

    @torch.no_grad()
    def _adopt(self, pl_module: pl.LightningModule) -> None:
        """Make the average the weights, and let the next update start a new average."""
        parameters = dict(pl_module.named_parameters())
        for name, average in self._average.items():
            parameters[name].copy_(average)
        self._average, self._updates = {}, 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model, beside the weights that training goes on with."""
        if self._updates:
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._average}
            checkpoint["averaging_state"] = {"n_averaged": self._updates}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go back to both; Lightning has made the average the weights by now."""
        if "averaging_state" in checkpoint:
            self._updates = int(checkpoint["averaging_state"]["n_averaged"])
            self._average = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
            pl_module.load_state_dict(checkpoint["current_model_state"])
