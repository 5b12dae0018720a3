"""What a quantization does to the scores: the model calibrated with it, recorded, and run on the search's images.

An evaluator is plain data beside the model, so that worker processes get a copy. Programs run on the native runtime
where it is compiled, else on torch's: equal integers, fifteen times the speed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intvit.analysis.analyzed_model import BATCH, AnalyzedModel, joined
from intvit.analysis.distances import divergence
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.program import Program
from intvit.quant import QuantConfig, set_mode
from intvit.quant.presets import quant_config
from intvit.runtime import fastest_runtime
from intvit.search.budget import Usage, usage

EVERY_STEP = "quant/calibration=full"


@dataclass(frozen=True)
class Candidate:
    """A preset (of the quant group), with overrides after commas, and quant.overrides behind its own."""

    preset: str
    overrides: dict[str, Any]

    def quant(self) -> QuantConfig:
        """The config that train.py would compose."""
        base = _composed(self.preset)
        return replace(base, overrides=joined(base.overrides, self.overrides))

    def with_every_step(self) -> Candidate:
        """The same, calibrated with everything that few bits need."""
        return replace(self, preset=f"{self.preset},{EVERY_STEP}")

    def defaults(self) -> list[str | dict[str, str]]:
        """What the defaults list of a preset of its own begins with."""
        name, *groups = self.preset.split(",")
        pairs = (group.removeprefix("quant/").split("=") for group in groups)
        return [name, *({f"override {group}": option} for group, option in pairs)]


_composed = cache(quant_config)


@dataclass(frozen=True)
class Measurement:
    """A candidate on N images.

    divergences: of each image, KL of the class probabilities from the float model's, in bits. same: whether the first
    class is the float model's. program: hash of all integers of the program. moved: mean KL divergence from another
    candidate, where it was asked for: what a small change does, with less noise than from float.
    """

    divergences: list[float]
    same: list[bool]
    used: Usage
    program: str
    moved: float | None = None

    @property
    def divergence(self) -> float:
        """Mean over the images."""
        return sum(self.divergences) / len(self.divergences)

    @property
    def agreement(self) -> float:
        """Percent of images whose first class is the float model's."""
        return 100.0 * sum(self.same) / len(self.same)


def gain(better: Measurement, worse: Measurement) -> tuple[float, float]:
    """(mean, standard error) of how much smaller the divergence of `better` is on the same images, in bits."""
    differences = np.array(worse.divergences) - np.array(better.divergences)
    return float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))


class Evaluator:
    """Measures candidates on `images`, uint8 (N, C, H, W)."""

    def __init__(self, analyzed: AnalyzedModel, images: Tensor, *, prove: bool) -> None:
        if analyzed.config.dense is not None:
            raise IntVitError(
                "the search compares scores of whole images, and this model labels pixels; `intvit analyze model` "
                "tells what each layer's choices cost it"
            )
        self.analyzed, self.images, self.prove = analyzed, images, prove
        set_mode(analyzed.model, "float")
        with torch.no_grad():
            logits = torch.cat([analyzed.model(batch) for batch in torch.split(images, BATCH)])
        self.reference = logits.double().softmax(1)
        self._known: dict[str, Tensor] = {}
        self._whole: dict[str, Program] = {}
        analyzed.collect()

    def program(self, candidate: Candidate) -> Program:
        """The integer program of a candidate, calibrated as train.py's schedule=calibrate does it.

        Those calibrated with more than ranges are kept: each is half a minute's work, and asked for several times.
        """
        quant = candidate.quant()
        if quant.calibration.ranges_alone:
            return record(self.analyzed.calibrated(quant))
        key = repr(candidate)
        if key not in self._whole:
            self._whole[key] = record(self.analyzed.calibrated(quant))
        return self._whole[key]

    def used(self, candidate: Candidate) -> Usage:
        """What the program of a candidate uses; no image is run."""
        return usage(self.program(candidate), prove=self.prove)

    def measure(self, candidate: Candidate, first: int, count: int, against: Candidate | None = None) -> Measurement:
        """The candidate on `count` images from number `first` on; against: the candidate that `moved` is from."""
        program, here = self.program(candidate), slice(first, first + count)
        logits, reference = self._logits(program, here), self.reference[here]
        probabilities = logits.softmax(1)
        moved = None
        if against is not None:
            moved = float(divergence(probabilities, self._probabilities(against, here)).mean())
        return Measurement(
            divergences=divergence(probabilities, reference).tolist(),
            same=(logits.argmax(1) == reference.argmax(1)).tolist(),
            used=usage(program, prove=self.prove),
            program=program_hash(program),
            moved=moved,
        )

    def _logits(self, program: Program, here: slice) -> Tensor:
        runtime = fastest_runtime(program)
        scores = np.concatenate([runtime(batch.numpy()) for batch in torch.split(self.images[here], BATCH)])
        return torch.from_numpy(scores).double() * program.score_scale

    def _probabilities(self, candidate: Candidate, here: slice) -> Tensor:
        key = repr((candidate, here))
        if key not in self._known:
            self._known = {key: self._logits(self.program(candidate), here).softmax(1)}
        return self._known[key]


def program_hash(program: Program) -> str:
    """Sixteen hexadecimal digits over all operators and integers; names of classes and provenance left out."""
    digest = hashlib.sha256()
    for operator in program.operators:
        digest.update(repr((operator.op, operator.name, operator.inputs, _sorted(operator.attributes))).encode())
        for role, name in sorted(operator.constants.items()):
            constant = program.constants[name]
            digest.update(repr((role, constant.array.shape, constant.bits, constant.signed)).encode())
            digest.update(np.ascontiguousarray(constant.array.astype(np.int64)).tobytes())
    return digest.hexdigest()[:16]


def _sorted(attributes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(attributes.items())
