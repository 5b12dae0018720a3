"""Quick-GELU, x sigmoid(1.702 x) (Hendrycks and Gimpel, arXiv 1606.08415; CLIP), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.elementary import sigmoid


def real(x: Tensor) -> Tensor:
    """The float function."""
    return x * torch.sigmoid(1.702 * x)


@GELU_FAMILIES.register_exact("quick_gelu", real=real)
def exact(x: Tensor) -> Tensor:
    """The function in float64."""
    return x * sigmoid(x * 1.702)
