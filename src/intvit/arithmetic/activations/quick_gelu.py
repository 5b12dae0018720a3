"""Quick-GELU, x sigmoid(1.702 x) (Hendrycks and Gimpel, arXiv 1606.08415; CLIP), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.dyadic import round_to
from intvit.arithmetic.elementary import sigmoid


def real(x: Tensor) -> Tensor:
    """The float function."""
    return x * torch.sigmoid(1.702 * x)


@GELU_FAMILIES.register_function("quick_gelu", real=real)
def table(codes: Tensor, scale: Tensor, output_scale: Tensor) -> Tensor:
    """codes * scale * sigmoid(1.702 * codes * scale) in steps of the output."""
    x = codes.double() * scale
    return round_to(x * sigmoid(x * 1.702), output_scale)
