"""What the families' derivations share: the proven ranges of scales and rows, and the shift functions' parameters.

Scales are float64 of no axis, on any device, and under `torch.func.vmap`; so are the int64 parameters.
"""

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import divide
from intvit.arithmetic.elementary import bit_length, ceil_log2, power_of_two
from intvit.arithmetic.validity import require
from intvit.errors import IntVitError

SCALE_RANGE = (2.0**-14, 2.0**10)
ROW_LENGTH_LIMIT = 1 << 15


def proven_scale(scale: Tensor, site: str) -> Tensor:
    """The scale, brought into SCALE_RANGE, where every width is proven; NaN to its lower end.

    Raises:
        IntVitError: it is outside; the message names the site.
    """
    low, high = SCALE_RANGE
    require(
        (scale >= low) & (scale <= high),
        lambda: (
            f"{site}: input scale {float(scale):g} is outside [2^-14, 2^10], where the integer widths are proven; "
            "clamp the observed range or choose another bit width"
        ),
    )
    return torch.where(scale >= low, scale, low).clamp(max=high)


def fraction_bits(scale: Tensor, resolution: int) -> Tensor:
    """Smallest f >= 0 with scale * 2^-f <= 1 / resolution (a power of two)."""
    return ceil_log2(scale * float(resolution)).clamp(min=0)


def largest_exponential(row_length: int, site: str) -> int:
    """L = floor((2^31 - 1) / row_length): `row_length` exponentials up to L sum to less than 2^31."""
    if not 1 <= row_length <= ROW_LENGTH_LIMIT:
        raise IntVitError(f"{site}: a row has {row_length} logits; expected 1 to {ROW_LENGTH_LIMIT}")
    return ((1 << 31) - 1) // row_length


def shift_parameters(
    scale: Tensor, largest: int, *, paper: bool = False, resolution: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """(x0, n, fraction_bits) of `shift_exponential` for a scale, with largest / 2 < -x0 << n <= largest.

    -x0 = ceil(2^f / scale) <= 2^14 for scale >= 2^-14, which is at most `largest`, so n >= 0. On long rows a resolution
    of 1/16 keeps -x0 small: E never falls below -x0, which n must keep far below -x0 << n (finer was measured worse).
    """
    inverse = divide(1.0, scale)
    f = torch.zeros_like(scale, dtype=torch.int64) if paper else fraction_bits(scale, resolution)
    x0 = torch.floor(-inverse * power_of_two(f)).to(torch.int64)
    return x0, bit_length(torch.div(largest, -x0, rounding_mode="floor")) - 1, f


def proven_activation(scale_in: Tensor, bits_in: int, site: str) -> Tensor:
    """`proven_scale` of an activation's input of 2 to 8 bits. Raises IntVitError for other widths, too."""
    if not 2 <= bits_in <= 8:
        raise IntVitError(f"{site}: GELU takes inputs of 2 to 8 bits, not {bits_in}")
    return proven_scale(scale_in, site)
