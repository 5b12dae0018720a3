"""The exact GELU, rounded once: as `lut`, but marked as not exportable, as softmax's is."""

from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.gelu import FloatGelu


@GELU_FAMILIES.register("float")
def derive(scale_in: Tensor, scale_out: Tensor, bits_in: int, bits_out: int, *, site: str = "gelu") -> FloatGelu:
    """A function of 8-bit integers is its table, whatever computes it."""
    table = GELU_FAMILIES["lut"](scale_in, scale_out, bits_in, bits_out, site=site).table
    return FloatGelu(table, bits_out)
