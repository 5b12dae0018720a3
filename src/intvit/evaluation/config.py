"""The typed evaluation config: what conf/evaluate.yaml composes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from intvit.config.values import TypedConfig
from intvit.errors import IntVitError
from intvit.runtime import RUNTIMES

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class ExportConfig(TypedConfig):
    """Where the integer checkpoint goes; null: `integer` in evaluation.out. onnx: an ONNX file beside it, too."""

    folder: str | None
    onnx: bool


@dataclass(frozen=True)
class EvaluationConfig(TypedConfig):
    """out: folder for what is written; null: the run folder, or beside the integer checkpoint."""

    out: str | None


@dataclass(frozen=True)
class EvaluateConfig(TypedConfig):
    """The whole of a composed evaluate.yaml. data: a chosen preset, or values that replace the run's own."""

    ckpt: str | None
    which: Literal["last", "best"]  # checkpoint of a run folder
    integer: str | None
    runtimes: list[str]
    limit: Annotated[int, Field(ge=1, description="null for all images")] | None
    device: str
    dense_scores: bool  # of labels for each pixel: the scores behind them, too, through every runtime's trace
    overlays: Annotated[int, Field(ge=0)]  # of labels for each pixel: so many photos on a page
    export: ExportConfig
    evaluation: EvaluationConfig
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.runtimes:
            raise IntVitError("runtimes=[]: name at least one runtime, such as runtimes=[torch,numpy]")
        if unknown := [name for name in self.runtimes if name not in RUNTIMES]:
            raise IntVitError(f"runtimes: no runtime {unknown[0]}; there are {', '.join(sorted(RUNTIMES))}")
