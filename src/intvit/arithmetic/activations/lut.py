"""Tables: GELU at every input, rounded to the output's integers."""

from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.dyadic import round_to
from intvit.arithmetic.elementary import gelu


@GELU_FAMILIES.register_function("lut")
def table(codes: Tensor, scale: Tensor, output_scale: Tensor) -> Tensor:
    """GELU(codes * scale) in steps of the output."""
    return round_to(gelu(codes.double() * scale), output_scale)
