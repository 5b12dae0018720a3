"""The contract for presets of few bits on other forms than a ViT with a class token, which test_equality.py has, after
calibration with every step and a training step; and how tight a certificate is where a program has offsets.
"""

import numpy as np
import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.export.record import record
from intvit.models.base import ImageModel
from intvit.program import bounds
from intvit.runtime import load_runtime
from tests.support.model_forms import images_for, model_of_form
from tests.support.small_models import differences

PRESETS = ("w6a6", "w4a8", "w3a8", "w4a4", "w4a4_a8fc2")


def trained(form: str, preset: str) -> tuple[ImageModel, torch.Tensor]:
    """Calibrated, one step further."""
    model = model_of_form(form, preset)
    images = images_for(model)
    calibrate(model, images)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 5).backward()
    optimizer.step()
    return model.eval(), images


@pytest.mark.parametrize("form", ["swin", "siglip"])
@pytest.mark.parametrize("preset", PRESETS)
def test_model_and_runtimes_give_equal_integers(preset: str, form: str, tmp_path) -> None:
    model, images = trained(form, preset)
    assert differences(model, images[:2], tmp_path / "integer") == []


def test_a_certificate_is_as_tight_with_offsets_as_without() -> None:
    """A shifted GELU is its table, what reads it a product with another bias: both bounds are reached by codes."""
    model, images = trained("vit", "w4a4")
    program = record(model)
    assert model.blocks[0].mlp.act.before is not None
    proven = bounds(program)
    operators = {operator.name: operator for operator in program.operators}
    for name, value in load_runtime(program, "numpy").trace(images.numpy()):
        assert (value >= proven[name].output.low).all(), name
        assert (value <= proven[name].output.high).all(), name
    for i in range(2):
        act, fc2 = operators[f"blocks.{i}.mlp.act"], operators[f"blocks.{i}.mlp.fc2"]
        table = program.constants[act.constants["table"]].array
        assert proven[act.name].output.extremes() == (table.min(), table.max())
        weight = program.constants[fc2.constants["weight"]].array.astype(np.int64)
        bias = program.constants[fc2.constants["bias"]].array.astype(np.int64)
        ends = np.stack((weight * int(table.min()), weight * int(table.max())))
        assert np.array_equal(proven[fc2.name].output.high.reshape(-1), ends.max(0).sum(1) + bias)
        assert np.array_equal(proven[fc2.name].output.low.reshape(-1), ends.min(0).sum(1) + bias)
