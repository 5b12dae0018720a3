"""GPTQ: exact sums, nearest codes where inputs are independent, less error at the outputs where they are not."""

import numpy as np
import pytest
import torch

from intvit.calibration import calibrate
from intvit.calibration.rounding import Moments, gptq
from intvit.quant.layers import Linear, Scores
from tests.support.model_forms import images_for, model_of_form


def weight(rows: int, columns: int, steps: int = 7) -> torch.Tensor:
    """Random, in steps of the codes, some at the ends."""
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn / drawn.abs().amax(1, keepdim=True) * steps


def correlated(rows: int, columns: int) -> torch.Tensor:
    """Codes int8 of few directions."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator) @ torch.randn(4, columns, generator=generator)
    x += 0.3 * torch.randn(rows, columns, generator=generator)
    return (x / x.abs().max() * 127).round().to(torch.int8)


@pytest.mark.parametrize("columns", [1, 7, 64, 130])
def test_independent_inputs_give_the_nearest_codes(columns: int) -> None:
    w = weight(5, columns)
    assert torch.equal(gptq(w, torch.eye(columns, dtype=torch.float64), 7, 0.01), w.float().round().clamp(-7, 7))


@pytest.mark.parametrize("columns", [16, 100])
def test_correlated_inputs_give_a_smaller_error_at_the_outputs_than_the_nearest_codes(columns: int) -> None:
    w, codes = weight(8, columns), correlated(400, columns)
    x = codes.double() - codes.double().mean(0)
    errors = [
        ((w - q) @ x.t()).square().mean() for q in (gptq(w, Moments(codes).covariance(), 7, 0.01).double(), w.round())
    ]
    assert errors[0] < 0.5 * errors[1]


def test_sums_of_products_are_those_of_pythons_integers() -> None:
    """More rows of the largest products than int32 would add."""
    generator = np.random.default_rng(0)
    codes = generator.integers(-128, 128, (2**17 + 5, 3), dtype=np.int8)
    codes[:, 0] = -128
    found, rows = Moments(torch.from_numpy(codes)), codes.astype(object)
    assert found.rows == len(codes)
    assert found.first.tolist() == [sum(column) for column in rows.T]
    assert found.second.tolist() == (rows.T @ rows).tolist()


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(4, 6, dtype=torch.int8),
        torch.full((5, 6), 93, dtype=torch.int8),
        correlated(2, 40),  # fewer rows than columns
        torch.cat(
            (correlated(9, 5), torch.zeros(9, 5, dtype=torch.int8), torch.full((9, 1), -128, dtype=torch.int8)), 1
        ),
        torch.cat((correlated(9, 5), correlated(9, 5)), 1),  # equal columns
    ],
    ids=["zeros", "constant", "few rows", "dead channels", "equal channels"],
)
def test_inputs_that_span_little_are_rounded_to_codes(codes: torch.Tensor) -> None:
    found = gptq(weight(3, codes.shape[1]), Moments(codes).covariance(), 7, 0.01)
    assert torch.equal(found, found.round())
    assert found.abs().max() <= 7


@pytest.mark.parametrize("form", ["vit", "features"])
def test_every_layer_but_the_classifier_is_rounded_and_progress_ends_at_the_whole(form: str) -> None:
    model, seen = model_of_form(form), []
    calibrate(model, images_for(model), progress=lambda *step: seen.append(step))
    linears = [layer for layer in model.modules() if isinstance(layer, Linear)]
    assert [layer.name for layer in linears if layer.rounding is None] == [
        x.name for x in linears if isinstance(x, Scores)
    ]
    assert list(dict.fromkeys(seen)) == [("rounding", i + 1, 9) for i in range(9)]


@torch.no_grad()
def test_biases_keep_the_means_of_the_float_outputs() -> None:
    """Within half a step of the bias, on the images that were looked at."""
    model = model_of_form("vit", overrides=["quant.calibration.reconstruction=0"])
    images, real, integer = images_for(model, 8), {}, {}
    calibrate(model, images)

    def keep(layer: Linear, inputs: tuple, output: object) -> None:
        if layer.mode == "float":
            real[layer.name] = output.flatten(0, -2).double().mean(0)
        else:
            codes = layer.accumulate(layer.operand(inputs[0]))
            integer[layer.name] = (codes.values.flatten(0, -2).double().mean(0) * codes.scale, codes.scale)

    layers = [layer for layer in model.modules() if isinstance(layer, Linear) and not isinstance(layer, Scores)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    for mode in ("float", "integer"):
        for layer in model.modules():
            if hasattr(layer, "mode"):
                layer.mode = mode
        model(images)
    for hook in hooks:
        hook.remove()
    for name, (mean, scale) in integer.items():
        assert bool(((mean - real[name]).abs() <= 0.51 * scale + 1e-5 * real[name].abs().max()).all()), name
