"""SiLU, x sigmoid(x) (Elfwing et al., arXiv 1702.03118), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.elementary import sigmoid


@GELU_FAMILIES.register_exact("silu", real=torch.nn.functional.silu)
def exact(x: Tensor) -> Tensor:
    """The function in float64."""
    return x * sigmoid(x)
