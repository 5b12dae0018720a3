"""GELU and other activations of at most 8 bits: one file for each family, from real scales to integers.

A derivation is (scale_in, scale_out, bits_in, bits_out, *, site, options) -> Gelu, for input scales in [2^-14, 2^10];
scales are float64 of no axis on one device. An output scale so small that the output ratio can't be encoded (some 2^20
times smaller than the input's) is an error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import encode_ratios, limits, round_to
from intvit.arithmetic.families import Families, Real, checked_integers
from intvit.arithmetic.gelu import TableGelu
from intvit.arithmetic.scales import proven_activation
from intvit.arithmetic.validity import require
from intvit.errors import IntVitError


def proven_output(scale_out: Tensor, site: str) -> Tensor:
    """The scale of an activation's output, 1 where it can be none.

    Raises:
        IntVitError: it is not finite and positive.
    """
    possible = torch.isfinite(scale_out) & (scale_out > 0)
    require(possible, lambda: f"{site}: output scale {scale_out.item():g} is not finite and positive; calibrate it")
    return torch.where(possible, scale_out, 1.0)


def output_ratio(ratio: Tensor, bits_out: int, operand_bits: int | Tensor, site: str) -> tuple[Tensor, Tensor]:
    """`encode_ratios` whose error names the site."""
    try:
        return encode_ratios(ratio, bits_out, operand_bits=operand_bits)
    except IntVitError as error:
        raise IntVitError(f"{site}: {error}") from error


def _as_table(name: str, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., TableGelu]:
    def derive(scale_in: Tensor, scale_out: Tensor, bits_in: int, bits_out: int, *, site: str = "gelu") -> TableGelu:
        scale_in, scale_out = proven_activation(scale_in, bits_in, site), proven_output(scale_out, site)
        half = 1 << (bits_in - 1)
        values = function(torch.arange(-half, half, device=scale_in.device), scale_in, scale_out)
        return TableGelu(checked_integers(name, site, values, 2 * half).clamp(*limits(bits_out)), bits_out)

    return derive


def shifted_table(
    scale_in: Tensor, scale_out: Tensor, before: Tensor, after: Tensor, bits_in: int, bits_out: int, exact: Real
) -> TableGelu:
    """exact(x + before) - after as a table; before, after: real, float64 of no axis, as the scales."""
    scale_in, scale_out = proven_activation(scale_in, bits_in, "gelu"), proven_output(scale_out, "gelu")
    half = 1 << (bits_in - 1)
    points = torch.arange(-half, half, device=scale_in.device).double() * scale_in + before
    return TableGelu(round_to(exact(points) - after, scale_out).clamp(*limits(bits_out)), bits_out)


GELU_FAMILIES = Families("gelu", __name__, _as_table, torch.nn.functional.gelu)
