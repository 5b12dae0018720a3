"""Widths and steps that every family takes inside a program: its proven intermediates and what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES
from intvit.calibration import calibrate
from intvit.data.presets import photo_config
from intvit.export.record import record
from intvit.models import create_model
from intvit.program import bounds
from intvit.program.cost import NM_7, NM_45, steps_of
from intvit.quant import QuantConfig
from intvit.quant.presets import compose_quant

PRESETS = ("ivit8", "ivit_paper", "ibert8", "ppoly8", "lut8")  # together our families of every operator
OPERATORS = ("exponential", "softmax", "gelu", "layernorm")


def widths() -> list[dict[str, Any]]:
    """A row for every family of softmax, GELU and LayerNorm, measured on one block of DeiT-T with random weights.

    bits: of the widest intermediate for any image, by the proof of `program.bounds`; widest: its name; steps and
    energies: for each element, see `cost`.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for quant in _configs():
        data = photo_config()
        torch.manual_seed(0)
        size: dict[str, Any] = {"image_size": data.image_size, "patch_size": None, "num_classes": 10, "depth": 1}
        model = create_model("deit_t", mean=data.mean, std=data.std, quant=quant, **size).eval()
        calibrate(model, [torch.randint(0, 256, (1, 3, *data.image_size), dtype=torch.uint8)])
        program = record(model)
        proven = bounds(program)
        families = {"exponential": quant.softmax, "softmax": quant.softmax, "gelu": quant.gelu}
        for operator in program.operators:
            if operator.op not in OPERATORS:
                continue
            config: Any = families.get(operator.op, quant.layernorm)
            name = f"{config.family}, paper" if getattr(config, "paper", False) else config.family
            steps = {"output": program.values[operator.output].bits}
            steps |= {key: seen.bits for key, seen in proven[operator.name].intermediates.items()}
            widest = max(steps, key=lambda key: steps[key])
            row: dict[str, Any] = {
                "operator": "softmax" if operator.op == "exponential" else operator.op,
                "family": name,
                "bits": steps[widest],
                "widest": widest,
                "steps": str(steps_of(operator)),
                "energy": steps_of(operator).energy(NM_45),
                "energy_7nm": steps_of(operator).energy(NM_7),
            }
            key = (row["operator"], name)
            if key not in rows or rows[key]["bits"] < row["bits"]:
                rows[key] = row
    return sorted(rows.values(), key=lambda row: (row["operator"], row["family"]))


def _configs() -> Iterator[QuantConfig]:
    """The presets, and one config for each further family of softmax or GELU: those of a user."""
    presets = [compose_quant(preset) for preset in PRESETS]
    yield from presets
    base, known = presets[-1], {(part.family) for quant in presets for part in (quant.softmax, quant.gelu)}
    for family in GELU_FAMILIES.standing_for(torch.nn.functional.gelu):
        if family not in known | {"float"}:
            yield replace(base, gelu=replace(base.gelu, family=family))
    for family in SOFTMAX_FAMILIES:
        if family not in known | {"float"}:
            yield replace(base, softmax=replace(base.softmax, family=family))
