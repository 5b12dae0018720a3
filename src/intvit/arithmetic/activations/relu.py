"""ReLU, max(x, 0), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES


@GELU_FAMILIES.register_exact("relu", real=torch.relu)
def exact(x: Tensor) -> Tensor:
    """The function in float64."""
    return x.clamp(min=0)
