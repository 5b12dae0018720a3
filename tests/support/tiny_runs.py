"""Training runs that finish in seconds: one block of 16 channels on an eighth of the embedded digits."""

import copy
import csv
import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from intvit.config.identity import plain
from intvit.config.presets import config_directory, register_resolvers
from intvit.data import digits
from intvit.training.entry import train
from intvit.training.module import TrainingModule

TINY = [
    "+model.width=16",
    "+model.depth=1",
    "+model.heads=2",
    "data.batch_size=32",
    "schedule.float.epochs=1",
    "schedule.qat.epochs=2",
    "schedule.frozen.epochs=1",
    "schedule.calibrate.images=64",
    "trainer.log_every_steps=1",
    "callbacks.progress=none",
]


def composed(*overrides: str, config_name: str = "train") -> dict[str, Any]:
    """The plain config that the command line with these overrides composes."""
    return copy.deepcopy(_composed(overrides, config_name, str(config_directory()), frozenset(os.environ.items())))


@functools.cache  # a tenth of a second, and most tests ask for the same
def _composed(overrides: tuple[str, ...], config_name: str, directory: str, environment: object) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(directory, version_base="1.3"):
        return plain(compose(config_name, overrides=list(overrides)))


def write_few_digits(cache: Path) -> None:
    """In place of the embedded digits, every eighth of them: 180 to train on, 45 to validate with."""
    split_digits = digits.split_digits
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTVIT_CACHE", str(cache))
        patch.setattr(digits, "split_digits", lambda labels: {k: v[::8] for k, v in split_digits(labels).items()})
        digits.digits_root()


def tiny(*overrides: str) -> dict[str, Any]:
    """The plain config of a tiny run; five steps an epoch, four epochs."""
    return composed(*TINY, *overrides)


class Stopped(Exception):
    """Stands for a killed process."""


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def train_and_stop(step: int, config: dict[str, Any], folder: Path) -> None:
    """Train until `step` is about to begin, then fall over."""
    original = TrainingModule.on_train_batch_start

    def hook(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        if self.global_step == step:
            raise Stopped
        original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", hook)
        with pytest.raises(Stopped):
            train(config, folder)
