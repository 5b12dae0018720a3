"""Softmax's exponential: one file for each family, from a real logit scale and a row length to integers.

Every family keeps sum(E) < 2^31 over `row_length` logits and max(E) >= 2^15, for every scale in [2^-14, 2^10] and every
row length up to 2^15: with L = floor((2^31 - 1) / row_length) >= 2^16 - 1, the largest E is doubled while it is at most
L, so it ends above L / 2, that is at least 2^15. A derivation is (scale, row_length, bits, *, site, options) ->
Exponent, the scale float64 of no axis on any device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intvit.arithmetic.exponent import TableExponent
from intvit.arithmetic.families import Families, checked_integers
from intvit.arithmetic.scales import largest_exponential, proven_scale
from intvit.arithmetic.validity import require
from intvit.errors import IntVitError


def proven_logits(scale: Tensor, bits: int, site: str) -> Tensor:
    """`proven_scale` of logits of a width that a table takes. Raises IntVitError for other widths, too."""
    if not 2 <= bits <= 16:
        raise IntVitError(f"{site}: logits of {bits} bits; a table takes 2 to 16")
    return proven_scale(scale, site)


def _as_table(name: str, function: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., TableExponent]:
    def derive(scale: Tensor, row_length: int, bits: int, *, site: str = "softmax") -> TableExponent:
        scale, largest = proven_logits(scale, bits, site), largest_exponential(row_length, site)
        distances = torch.arange(1 << bits, device=scale.device)
        values = checked_integers(name, site, function(distances, scale, largest), 1 << bits)
        low, high, top = values.amin(), values.amax(), values[0]
        require(
            (low >= 0) & (high <= largest) & (top >= 1 << 15),
            lambda: (
                f"{site}: family {name} gives {int(low)}..{int(high)}, {int(top)} at the maximum; "
                f"expected 0..{largest}, and at least 32768 there"
            ),
        )
        return TableExponent(values)

    return derive


SOFTMAX_FAMILIES = Families("softmax", __name__, _as_table, None)
