"""Part `derivations`: the integers that every layer gets on the device equal those of the CPU, site by site."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.bench.gpu.report import Report, differing
from intvit.bench.gpu.subjects import calibrated
from intvit.config.presets import presets
from intvit.models.base import ImageModel
from intvit.quant.derivation import Derivations
from intvit.quant.derivation_graph import DerivationGraph

MODELS = ("deit_t", "swin_t")


def derivations(report: Report) -> None:
    """For every preset; on a GPU also by a graph: computed, captured, replayed, replayed with other weights."""
    for quant in (name for name in presets("quant") if name != "fp32"):
        for name in MODELS:
            model = calibrated(name, quant, report.place)
            on_device, expected = copy.deepcopy(model).to(report.place.device), one_by_one(model)
            report.equality(f"{name} {quant}", differing(integers(_derived(on_device)), expected))
            if report.place.gpu:
                _by_graph(report, f"{name} {quant}", model, on_device, expected)


def _by_graph(report: Report, case: str, model: ImageModel, on_device: ImageModel, expected: dict[str, Tensor]) -> None:
    graph, passes = DerivationGraph(), list[Derivations]()

    def derive() -> Tensor | None:
        passes.append(_derived(on_device))
        return passes[-1].valid

    for call in ("first", "second", "third", "changed weights'"):
        if call.startswith("changed"):
            _change(model)
            _change(on_device)
            expected = one_by_one(model)
        valid = graph.run(derive, (*on_device.parameters(), *on_device.buffers()))
        report.equality(f"{case}, {call} call of the graph", differing(integers(passes[-1]), expected))
        if valid is None or not bool(valid):
            report.equality(f"{case}, {call} flag of the graph", ["valid"])
    if len(passes) != 2:  # the first computes, the second is captured; the others replay it
        report.equality(f"{case}, replayed", [f"derived {len(passes)} times: the graph was refused"])


def one_by_one(model: ImageModel) -> dict[str, Tensor]:
    """What every layer of a model on the CPU gets, derived for its site alone."""
    derivations = _derived(model)
    with torch.no_grad():
        for request in derivations.requests:
            request.result.value = request.compute()
    return integers(derivations)


def integers(derivations: Derivations) -> dict[str, Tensor]:
    """All tensors that were derived, by the number of the request, its site and function."""
    found: dict[str, Tensor] = {}
    for number, request in enumerate(derivations.requests):
        what = f"{number} {request.site} {getattr(request.function, '__name__', '')}"
        found |= {f"{what} {name}": tensor for name, tensor in _tensors("value", request.result.value)}
    return found


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _tensors(f"{name}[{index}]", entry)


def _derived(model: ImageModel) -> Derivations:
    derivations = Derivations()
    model.derive(derivations)
    return derivations


@torch.no_grad()
def _change(model: ImageModel) -> None:
    """In place, exactly, and differently for each parameter."""
    for number, parameter in enumerate(model.parameters()):
        parameter.mul_((1.0625, 0.9375, 1.5)[number % 3])
