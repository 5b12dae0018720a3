"""Quantizer: scales that suit the function that reads them."""

import math

import pytest
import torch

from intvit.arithmetic.activations.ivit import PAPER_SIGMOID_SLOPE
from intvit.quant.presets import compose_quant
from intvit.quant.quantizer import Quantizer
from tests.support.small_models import prepared, random_images, small_model

OBSERVER = compose_quant("lut8").observer


def quantizer(limit: float, grid: float | None) -> Quantizer:
    result = Quantizer(8, "minmax", OBSERVER, grid=grid)
    result.collect(torch.tensor([[limit]], dtype=torch.float64))
    result.finish()
    return result


@pytest.mark.parametrize("grid", [1.0, PAPER_SIGMOID_SLOPE])
def test_a_scale_on_the_grid_loses_nothing_to_the_rounded_reciprocal(grid: float) -> None:
    for limit in torch.logspace(-2.5, 3.5, 400).tolist():
        free, scale = float(quantizer(limit, None).scale()), float(quantizer(limit, grid).scale())
        steps = -math.floor(-1.0 / (grid * scale))
        if grid * free >= 2:  # no integer is near: left as it is
            assert scale == free
            continue
        assert steps == round(1.0 / (grid * free))
        assert math.isclose(grid * scale * steps, 1.0, rel_tol=1e-5)


def test_only_the_published_shift_functions_ask_for_a_grid() -> None:
    for preset, expected in (("ivit_paper", True), ("ivit8", False), ("lut8", False)):
        model = prepared(small_model(preset))
        for block in model.blocks:
            logits, hidden = block.attn.core.logits, block.mlp.fc1.output
            assert (logits.grid, hidden.grid) == ((1.0, PAPER_SIGMOID_SLOPE) if expected else (None, None))
            if expected:
                model.integer_scores(random_images(1, 0))
                x0 = block.mlp.act.derived.value.function.x0
                assert math.isclose(-1.0 / (int(x0) * float(hidden.scale())), PAPER_SIGMOID_SLOPE, rel_tol=1e-5)
