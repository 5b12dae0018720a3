"""GELU by tanh, x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel, arXiv 1606.08415), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.elementary import tanh

_SQRT_2_OVER_PI = 0.7978845608028654


def real(x: Tensor) -> Tensor:
    """The float function."""
    return torch.nn.functional.gelu(x, approximate="tanh")


@GELU_FAMILIES.register_exact("gelu_tanh", real=real)
def exact(x: Tensor) -> Tensor:
    """The function in float64."""
    return x * 0.5 * (tanh((x * x * x * 0.044715 + x) * _SQRT_2_OVER_PI) + 1.0)
