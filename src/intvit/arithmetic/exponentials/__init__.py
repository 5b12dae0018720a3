"""Softmax's exponential: one file for each family, from a real logit scale and a row length to integers.

Every family keeps sum(E) < 2^31 over `row_length` logits and max(E) >= 2^15, for every scale in [2^-14, 2^10] and every
row length up to 2^15: with L = floor((2^31 - 1) / row_length) >= 2^16 - 1, the largest E is doubled while it is at most
L, so it ends above L / 2, that is at least 2^15. A derivation is (scale, row_length, bits, *, site, options) ->
Exponent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intvit.arithmetic.exponent import TableExponent
from intvit.arithmetic.families import Families, checked_integers
from intvit.arithmetic.scales import check_scale, largest_exponential
from intvit.errors import IntVitError


def check_logits(scale: float, bits: int, site: str) -> None:
    """Raise IntVitError unless a table of logits of this scale and width can be made."""
    check_scale(scale, site)
    if not 2 <= bits <= 16:
        raise IntVitError(f"{site}: logits of {bits} bits; a table takes 2 to 16")


def _as_table(name: str, function: Callable[[Tensor, float, int], Tensor]) -> Callable[..., TableExponent]:
    def derive(scale: float, row_length: int, bits: int, *, site: str = "softmax") -> TableExponent:
        check_logits(scale, bits, site)
        largest = largest_exponential(row_length, site)
        values = checked_integers(name, site, function(torch.arange(1 << bits), scale, largest), 1 << bits)
        if values.min() < 0 or values.max() > largest or values[0] < 1 << 15:
            low, high = int(values.min()), int(values.max())
            raise IntVitError(
                f"{site}: family {name} gives {low}..{high}, {int(values[0])} at the maximum; "
                f"expected 0..{largest}, and at least 32768 there"
            )
        return TableExponent(values)

    return derive


SOFTMAX_FAMILIES = Families("softmax", __name__, _as_table, None)
