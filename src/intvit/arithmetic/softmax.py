"""Softmax on integers: exponent, shared normalization, and the equal float64 form for training.

`softmax` and `normalize` are normative. `softmax_from_table` gives the same integers from the table of an exponent.
"""

import math

import torch
from torch import Tensor

from intvit.arithmetic.chunks import by_rows
from intvit.arithmetic.deferred import distances, lowered
from intvit.arithmetic.dyadic import container, divide
from intvit.arithmetic.exponent import Exponent
from intvit.errors import IntVitError

NORMALIZATIONS = ("rounded", "floor")


def _check_normalization(normalization: str, bits: int) -> None:
    if normalization not in NORMALIZATIONS:
        raise IntVitError(f"softmax normalization is {normalization!r}; expected one of {NORMALIZATIONS}")
    if not 2 <= bits <= 16:
        raise IntVitError(f"probabilities of {bits} bits; expected 2 to 16")


def normalize(exponentials: Tensor, bits: int, normalization: str = "rounded") -> Tensor:
    """Probabilities of the exponentials along the last axis.

    `rounded`: F = floor((2^46 - 1) / sum(E)), p = min((E * F + 2^(45-bits)) >> (46-bits), 2^bits - 1); unsigned, scale
    2^-bits. max(E) >= 2^15 keeps 15 significant bits in F.
    `floor` (I-ViT's paper): F = floor((2^31 - 1) / sum(E)), p = (E * F) >> (32-bits); signed, scale 2^-(bits-1).

    Args:
        exponentials: int64 [..., N], E >= 0, 1 <= sum(E) < 2^31.
        bits: 2 to 16.

    Returns:
        int64 [..., N]. E * F < 2^46, because E <= sum(E).
    """
    _check_normalization(normalization, bits)
    total = exponentials.sum(-1, keepdim=True)
    if normalization == "floor":
        factor = torch.div((1 << 31) - 1, total, rounding_mode="floor")
        return (exponentials * factor) >> (32 - bits)
    factor = torch.div((1 << 46) - 1, total, rounding_mode="floor")
    return ((exponentials * factor + (1 << (45 - bits))) >> (46 - bits)).clamp(max=(1 << bits) - 1)


def normalize_float64(exponentials: Tensor, bits: int, normalization: str = "rounded") -> Tensor:
    """`normalize` on float64 [..., N], equal for integral exponentials with sum(E) < 2^31; overwrites its argument.

    Why: the sum is exact. The quotient Q = (2^46 - 1) / sum lies at least 1 / sum below the next integer unless it is
    one, and half its float64 step is at most 2^-7 / sum, so that its floor is exact. E * F < 2^46 is exact, and so is
    its product with a power of two and the sum with 0.5.
    """
    _check_normalization(normalization, bits)
    total = exponentials.sum(-1, keepdim=True)
    if normalization == "floor":
        factor = torch.floor(divide(float((1 << 31) - 1), total)).mul_(2.0 ** (bits - 32))
        return exponentials.mul_(factor).floor_()
    factor = torch.floor(divide(float((1 << 46) - 1), total)).mul_(2.0 ** (bits - 46))
    return exponentials.mul_(factor).add_(0.5).floor_().clamp_(max=float((1 << bits) - 1))


def probability_range(bits: int, normalization: str) -> tuple[int, bool, float]:
    """(bits, signed, scale) of the probabilities: unsigned with scale 2^-bits, or signed with scale 2^-(bits-1)."""
    _check_normalization(normalization, bits)
    signed = normalization == "floor"
    return bits, signed, math.ldexp(1.0, signed - bits)


def softmax(
    logits: Tensor, exponent: Exponent, bits: int, normalization: str = "rounded", mask: Tensor | None = None
) -> Tensor:
    """Softmax over the last axis of integer logits: normalize(exponent(logits - max(logits))).

    Args:
        logits: integers [..., N] of the width and N that `exponent` was derived for.
        mask: bool, broadcasts against logits; True: the logit is excluded, not in the maximum and with E = 0. At least
            one of a row is not.

    Returns:
        int64 [..., N], probabilities with `probability_range(bits, normalization)`.
    """
    x = lowered(logits.to(torch.int64), mask)
    exponentials = exponent(x - x.amax(-1, keepdim=True))
    if mask is not None:
        exponentials = exponentials.masked_fill(mask, 0)
    if not exponent.exportable:
        return normalize_float64(exponentials, bits, normalization).to(torch.int64)
    return normalize(exponentials, bits, normalization)


def softmax_from_table(
    logits: Tensor, table: Tensor, bits: int, normalization: str = "rounded", mask: Tensor | None = None
) -> Tensor:
    """`softmax` by table look-up in float64: equal to it when `table` is `exponent_table` of its exponent.

    Args:
        logits: int8 or int16 [..., N].
        table: float64 [2^logit_bits], E at distance d from the row's maximum.
        mask: as in `softmax`.

    Returns:
        probabilities [..., N]: uint8 for `rounded` up to 8 bits, else int32; int8 or int16 for `floor`.
    """
    _, signed, _ = probability_range(bits, normalization)
    operands = (logits,) if mask is None else (lowered(logits, mask), mask.expand(logits.shape))

    def probabilities(rows: Tensor, excluded: Tensor | None = None) -> Tensor:
        exponentials = torch.index_select(table, 0, distances(rows).reshape(-1)).view(rows.shape)
        if excluded is not None:
            exponentials.masked_fill_(excluded, 0.0)
        return normalize_float64(exponentials, bits, normalization)

    return by_rows(probabilities, *operands, dtype=container(bits, signed))
