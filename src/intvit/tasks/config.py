"""The typed `task` group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from intvit.config.values import TypedConfig


@dataclass(frozen=True)
class TaskConfig(TypedConfig):
    """Which task, and the form of its head; null: the architecture's own classifier."""

    name: Literal["classification", "segmentation"]
    head: Literal["linear", "multi", "mask"] | None
