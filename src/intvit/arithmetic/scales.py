"""What the families' derivations share: the proven ranges of scales and rows, and the shift functions' parameters."""

import math

from intvit.errors import IntVitError

SCALE_RANGE = (2.0**-14, 2.0**10)
ROW_LENGTH_LIMIT = 1 << 15


def check_scale(scale: float, site: str) -> None:
    """Raise IntVitError naming the site unless the scale is in SCALE_RANGE, where every width is proven."""
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise IntVitError(
            f"{site}: input scale {scale:g} is outside [2^-14, 2^10], where the integer widths are proven; "
            "clamp the observed range or choose another bit width"
        )


def fraction_bits(scale: float, resolution: int) -> int:
    """Smallest f >= 0 with scale * 2^-f <= 1 / resolution (a power of two)."""
    mantissa, exponent = math.frexp(scale * resolution)
    return max(0, exponent - (mantissa == 0.5))


def largest_exponential(row_length: int, site: str) -> int:
    """L = floor((2^31 - 1) / row_length): `row_length` exponentials up to L sum to less than 2^31."""
    if not 1 <= row_length <= ROW_LENGTH_LIMIT:
        raise IntVitError(f"{site}: a row has {row_length} logits; expected 1 to {ROW_LENGTH_LIMIT}")
    return ((1 << 31) - 1) // row_length


def shift_parameters(scale: float, largest: int, *, paper: bool = False, resolution: int = 16) -> tuple[int, int, int]:
    """(x0, n, fraction_bits) of `shift_exponential` for a scale, with largest / 2 < -x0 << n <= largest.

    -x0 = ceil(2^f / scale) <= 2^14 for scale >= 2^-14, which is at most `largest`, so n >= 0. On long rows a resolution
    of 1/16 keeps -x0 small: E never falls below -x0, which n must keep far below -x0 << n (finer was measured worse).
    """
    f = 0 if paper else fraction_bits(scale, resolution)
    x0 = math.floor(-math.ldexp(1.0 / scale, f))
    return x0, (largest // -x0).bit_length() - 1, f


def check_activation(scale_in: float, bits_in: int, site: str) -> None:
    """Raise IntVitError unless an activation's input has a proven scale and 2 to 8 bits."""
    check_scale(scale_in, site)
    if not 2 <= bits_in <= 8:
        raise IntVitError(f"{site}: GELU takes inputs of 2 to 8 bits, not {bits_in}")
