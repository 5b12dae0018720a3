"""SiLU, x sigmoid(x) (Elfwing et al., arXiv 1702.03118), as a table."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.dyadic import round_to
from intvit.arithmetic.elementary import sigmoid


@GELU_FAMILIES.register_function("silu", real=torch.nn.functional.silu)
def table(codes: Tensor, scale: Tensor, output_scale: Tensor) -> Tensor:
    """SiLU(codes * scale) in steps of the output."""
    x = codes.double() * scale
    return round_to(x * sigmoid(x), output_scale)
