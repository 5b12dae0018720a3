"""GELU and other activations of at most 8 bits: one file for each family, from real scales to integers.

A derivation is (scale_in, scale_out, bits_in, bits_out, *, site, options) -> Gelu, for input scales in [2^-14, 2^10].
An output scale so small that the output ratio can't be encoded (some 2^20 times smaller than the input's) is an error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import encode_ratio, limits
from intvit.arithmetic.families import Families, checked_integers
from intvit.arithmetic.gelu import TableGelu
from intvit.arithmetic.scales import check_activation
from intvit.errors import IntVitError


def output_ratio(ratio: float, bits_out: int, operand_bits: int, site: str) -> tuple[int, int]:
    """`encode_ratio` whose error names the site."""
    try:
        return encode_ratio(ratio, bits_out, operand_bits=operand_bits)
    except IntVitError as error:
        raise IntVitError(f"{site}: {error}") from error


def _as_table(name: str, function: Callable[[Tensor, float, float], Tensor]) -> Callable[..., TableGelu]:
    def derive(scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, site: str = "gelu") -> TableGelu:
        check_activation(scale_in, bits_in, site)
        half = 1 << (bits_in - 1)
        values = function(torch.arange(-half, half), scale_in, scale_out)
        return TableGelu(checked_integers(name, site, values, 2 * half).clamp(*limits(bits_out)), bits_out)

    return derive


GELU_FAMILIES = Families("gelu", __name__, _as_table, torch.nn.functional.gelu)
