"""Gradients where calibration has moved offsets: those of the float function at the quantized operands."""

import copy

import pytest
import torch
from torch import Tensor, nn

from intvit.calibration import calibrate
from intvit.models.base import ImageModel
from intvit.quant.derivation import Derivations
from intvit.quant.tensor import QTensor
from tests.support.model_forms import images_for, model_of_form


@pytest.fixture(scope="module")
def model() -> ImageModel:
    calibrated = model_of_form("vit")
    calibrate(calibrated, images_for(calibrated))
    calibrated.derive(Derivations())
    return calibrated


def codes(bits: int, columns: int, scale: Tensor) -> QTensor:
    """Every code but those at the ends, which saturate; 6 rows."""
    half = 2 ** (bits - 1)
    drawn = torch.randint(1 - half, half - 1, (2, 3, columns), generator=torch.Generator().manual_seed(0))
    return QTensor(drawn.to(torch.int8), torch.zeros(drawn.shape, requires_grad=True), scale, bits)


def near(found: Tensor | None, expected: Tensor) -> bool:
    assert found is not None
    return bool((found.double() - expected).abs().max() <= 1e-5 * expected.abs().max())


def test_a_linear_layer_that_reads_an_offset_has_the_gradient_of_its_float_function(model: ImageModel) -> None:
    layer, scale = model.blocks[0].mlp.fc2, model.blocks[0].mlp.act.output.scale()
    assert layer.offset is not None
    x = codes(layer.bits, layer.weight.shape[1], scale)
    gradient = torch.randn(2, 3, len(layer.weight), generator=torch.Generator().manual_seed(1))
    layer.zero_grad()
    layer.accumulate(x).handle.backward(gradient)
    real = copy.deepcopy(layer).double()
    parameters = layer.derived.value
    with torch.no_grad():
        real.weight.copy_(parameters.weight.double() * parameters.weight_scale.double()[:, None])
    operand = (x.values.double() * scale).requires_grad_()

    def value() -> Tensor:
        return (real(operand) * gradient).sum()

    dx, dw, db = torch.autograd.grad(value(), (operand, real.weight, real.bias))
    inside = 1.0 if parameters.inside is None else parameters.inside
    assert near(x.handle.grad, dx)
    assert near(layer.weight.grad, dw * inside)
    assert near(layer.bias.grad, db)
    with torch.no_grad():  # a linear function: the quotient is exact but for rounding
        for place in ((0, 0), (3, 17), (23, 95)):
            values = []
            for step in (1e-3, -2e-3):
                real.weight[place] += step
                values.append(value())
            real.weight[place] += 1e-3
            assert abs(float((values[0] - values[1]) / 2e-3) - float(dw[place])) < 1e-6 * float(dw.abs().max())


def test_an_activation_with_offsets_has_the_derivative_of_its_float_function(model: ImageModel) -> None:
    mlp = model.blocks[0].mlp
    scale, bits = mlp.fc1.output.scale(), mlp.fc1.output.bits
    assert mlp.act.before is not None
    x = codes(bits, 96, scale)
    gradient = torch.randn(2, 3, 96, generator=torch.Generator().manual_seed(1))
    mlp.act.integer(x).handle.backward(gradient)
    operand = (x.values.double() * scale).requires_grad_()
    (expected,) = torch.autograd.grad((mlp.act.function_of(operand) * gradient).sum(), operand)
    assert near(x.handle.grad, expected)
    with torch.no_grad():
        quotient = (mlp.act.function_of(operand + 1e-5) - mlp.act.function_of(operand - 1e-5)) / 2e-5
    assert near(x.handle.grad, quotient * gradient)
    ends = QTensor(torch.tensor([[-128, 127]], dtype=torch.int8), torch.zeros(1, 2, requires_grad=True), scale, bits)
    mlp.act.integer(ends).handle.backward(torch.ones(1, 2))
    assert ends.handle.grad is not None
    assert not ends.handle.grad.any()


def test_training_goes_down_from_the_calibrated_start() -> None:
    trained = model_of_form("vit")
    images, labels = images_for(trained, 10), torch.arange(10) % 5
    calibrate(trained, images)
    optimizer = torch.optim.Adam(trained.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(trained(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert min(losses[-3:]) < 0.8 * losses[0]
