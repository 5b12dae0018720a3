"""The typed evaluation config: what conf/evaluate.yaml composes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from intvit.errors import IntVitError

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class ExportConfig:
    """Where the integer checkpoint goes; null: `integer` in the run folder. onnx: an ONNX file beside it, too."""

    folder: str | None = None
    onnx: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """The whole of a composed evaluate.yaml. data: a chosen preset, or values that replace the run's own."""

    ckpt: str | None = None
    integer: str | None = None
    runtimes: list[str] = field(default_factory=lambda: ["torch", "numpy"])
    limit: int | None = None
    device: str = "auto"
    export: ExportConfig = field(default_factory=ExportConfig)
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.runtimes:
            raise IntVitError("runtimes=[]: name at least one runtime, such as runtimes=[torch,numpy]")
        if self.limit is not None and self.limit < 1:
            raise IntVitError(f"limit={self.limit}: expected at least 1 image, or null for all")
