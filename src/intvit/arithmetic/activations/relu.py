"""ReLU, max(x, 0), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.dyadic import round_to


@GELU_FAMILIES.register_function("relu", real=torch.relu)
def table(codes: Tensor, scale: Tensor, output_scale: Tensor) -> Tensor:
    """max(codes * scale, 0) in steps of the output."""
    return round_to(codes.clamp(min=0).double() * scale, output_scale)
