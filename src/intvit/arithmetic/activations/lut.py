"""Tables: GELU at every input, rounded to the output's integers."""

from intvit.arithmetic.activations import GELU_FAMILIES
from intvit.arithmetic.elementary import gelu

GELU_FAMILIES.register_exact("lut")(gelu)
