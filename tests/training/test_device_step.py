"""A whole training step on device `meta`: nothing of it is read on the host, and few operators are sent."""

import pytest
import torch

from intvit.bench import device_step
from intvit.bench.device_step import DeviceStep, audit
from intvit.config.presets import presets
from intvit.quant.kernels import accelerator
from intvit.quant.kernels.eager import EAGER
from tests.support.quick import slow_but

SOME = ("ivit8", "lut8_true8", "ppoly8", "w4a4")
INTEGER = [name for name in presets("quant") if name != "fp32"]
# Small ones: what is sent does not depend on the sizes.
VIT = {"image_size": 32, "sizes": {"width": 32, "depth": 2, "heads": 2}}
MODELS = {
    "deit_t": VIT,
    "deit_t_distilled": VIT,
    "swin_t": {"image_size": 56, "sizes": {"width": 24, "depths": (1, 2), "heads": (1, 2), "window": 7}},
}


@pytest.mark.parametrize(
    ("model", "quant"),
    [
        pytest.param(model, quant, marks=() if model == "deit_t" or quant in SOME else pytest.mark.slow)
        for model in MODELS
        for quant in INTEGER
    ],
)
def test_no_step_of_any_preset_and_model_reads_the_device(model: str, quant: str) -> None:
    found = audit(DeviceStep(model, quant, 4, teacher=model == "deit_t", **MODELS[model]))
    assert found.copies == []


@pytest.mark.parametrize("quant", slow_but(SOME, INTEGER))
def test_nor_does_one_without_triton(quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intvit.quant.layer.accelerator", lambda: EAGER)
    assert audit(DeviceStep("deit_t", quant, 4, **VIT)).copies == []


@pytest.mark.parametrize("quant", ["ivit8", "lut8", "w4a8"])
def test_a_step_of_deit_s_launches_at_most_a_thousand_operators(quant: str) -> None:
    pytest.importorskip("triton", reason="the operators are Triton's")
    found = audit(DeviceStep("deit_s", quant, 256))
    assert found.copies == []
    assert found.operators + 1 <= 1000  # one more: the graph of the derivation
    assert found.derivation <= 650


def test_the_number_of_operators_that_derive_does_not_grow_with_the_depth() -> None:
    counts = {
        depth: audit(DeviceStep("deit_t", "ivit8", 4, 32, sizes={"width": 32, "depth": depth, "heads": 2})).derivation
        for depth in (2, 6)
    }
    assert counts[2] == counts[6]


def test_what_the_host_reads_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail."""
    move = device_step.move_ranges

    def reads(model: torch.nn.Module) -> None:
        move(model)
        float(next(model.parameters()).sum())

    monkeypatch.setattr(device_step, "move_ranges", reads)
    with pytest.raises(RuntimeError, match="meta"):
        audit(DeviceStep("deit_t", "ivit8", 4, **VIT))


def test_a_copy_from_the_host_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail."""
    move = device_step.move_ranges

    def copies(model: torch.nn.Module) -> None:
        move(model)
        next(model.parameters()).detach().add_(torch.ones(3).to("meta").sum())

    monkeypatch.setattr(device_step, "move_ranges", copies)
    assert audit(DeviceStep("deit_t", "ivit8", 4, **VIT)).copies


def test_accelerators_without_triton_take_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "find_spec", lambda name: None)
    accelerator.accelerator.cache_clear()
    try:
        assert accelerator.accelerator() is EAGER
    finally:
        accelerator.accelerator.cache_clear()
