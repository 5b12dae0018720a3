"""Which approximation a model's activation gets: the model says the function, the config how it is approximated."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from intvit.arithmetic import GELU_FAMILIES
from intvit.errors import IntVitError
from intvit.quant.layers.pointwise import GELU, activation_family
from intvit.quant.presets import compose_quant


@pytest.mark.parametrize(
    ("family", "function", "expected", "real"),
    [
        *((family, "gelu", family, "lut") for family in ("lut", "ivit", "ibert", "ppoly", "float")),
        *((family, "gelu_tanh", family, "gelu_tanh") for family in ("ivit", "ibert", "ppoly")),
        *((family, "gelu_tanh", "gelu_tanh", "gelu_tanh") for family in ("lut", "float")),
        *((family, "quick_gelu", "quick_gelu", "quick_gelu") for family in ("lut", "ivit", "ibert", "ppoly", "float")),
        *((family, "quick_gelu", family, family) for family in ("relu", "silu")),  # an activation of the user's choice
    ],
)
def test_the_family_and_the_float_function_of_an_activation(family, function, expected, real) -> None:
    config = replace(compose_quant("lut8").site("act").gelu, family=family)
    assert activation_family(config, function) == (GELU_FAMILIES[expected], GELU_FAMILIES[real].real)


def test_gelu_by_tanh_is_so_near_to_gelu_that_its_approximations_serve_and_quick_gelu_is_not() -> None:
    x = torch.linspace(-10, 10, 100001, dtype=torch.float64)
    assert (F.gelu(x, approximate="tanh") - F.gelu(x)).abs().max() < 5e-4
    assert 0.02 < (x * torch.sigmoid(1.702 * x) - F.gelu(x)).abs().max() < 0.021


def rough(codes: torch.Tensor, scale: torch.Tensor, scale_out: torch.Tensor) -> torch.Tensor:
    """GELU in steps of the output."""
    return torch.round(F.gelu(codes * scale) / scale_out).to(torch.int64)


def test_a_function_of_ones_own_is_not_replaced_in_silence() -> None:
    quant = compose_quant("lut8", [f"quant.gelu.family={__name__}:rough"])
    assert GELU(quant.site("act"), "gelu_tanh").family.foreign
    with pytest.raises(IntVitError, match="rough stands for GELU, the model's activation is quick_gelu"):
        GELU(quant.site("act"), "quick_gelu")
