"""Tables: the exponential at every distance, rounded to the width that the row leaves."""

import torch
from torch import Tensor

from intvit.arithmetic.elementary import exp
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES


@SOFTMAX_FAMILIES.register_function("lut")
def table(distances: Tensor, scale: Tensor, largest: int) -> Tensor:
    """largest * e^(-distance * scale), rounded half up."""
    return torch.floor(exp(distances.double() * -scale) * float(largest) + 0.5).to(torch.int64)
