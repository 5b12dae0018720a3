"""Shorter constants: ratios stay what they are to the last bit kept, whatever the tensor."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import pytest
import torch

from intvit.arithmetic import derive_layernorm, encode_pair, encode_ratios, layernorm
from intvit.arithmetic.hardware import power_of_two, shortened
from intvit.errors import IntVitError


@dataclass(frozen=True)
class Form:
    multiplier_bits: int = 17
    common_shift: bool = True
    operand_bits: int = 24
    weight_ratio: Literal["any", "power_of_two"] = "power_of_two"


def ratios(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(40, generator=generator, dtype=torch.float64) * 2.0 ** torch.randint(
        -24, 3, (40,), generator=generator
    )
    signs = torch.randint(-1, 2, (40,), generator=generator)  # some ratios are 0
    return values * signs


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bits", [8, 17, 24, 31])
def test_a_common_shift_rounds_every_ratio_to_its_last_bit_and_the_largest_has_all_bits(bits: int, seed: int) -> None:
    m, e = encode_ratios(ratios(seed), 8)
    shift, short = shortened(e, m, form=Form(bits))
    assert len(set(shift.tolist())) == 1
    assert int(short.abs().max()).bit_length() in (bits, min(bits, 31))
    for long, old, new in zip(m.tolist(), e.tolist(), short.tolist(), strict=True):
        exact = Fraction(long, 2**old) * 2 ** int(shift[0])
        assert abs(exact - new) <= Fraction(1, 2) or abs(new) == 2**bits - 1 > abs(exact) - 1
        assert (new > 0) - (new < 0) in (0, (long > 0) - (long < 0))


def test_a_shift_of_its_own_keeps_all_bits_of_every_channel() -> None:
    m, e = encode_ratios(ratios(9), 8)
    shift, short = shortened(e, m, form=Form(common_shift=False))
    kept = m != 0
    lengths = {int(value).bit_length() for value in m[kept].abs()}
    assert max(lengths) == 31
    assert {int(value).bit_length() for value in short[kept].abs()} <= {min(17, length) for length in lengths}
    assert ((shift >= 1) & (shift <= e)).all()


def test_both_multipliers_of_an_addition_share_the_tensors_shift() -> None:
    a, b = ratios(3).abs() + 1e-6, ratios(4).abs() + 1e-6
    m_a, m_b, e = encode_pair(a, b, 16)
    shift, short_a, short_b = shortened(e, m_a, m_b, form=Form())
    assert len(set(shift.tolist())) == 1
    step = 2.0 ** -int(shift[0])
    assert (short_a * step - a).abs().max() <= step
    assert (short_b * step - b).abs().max() <= step
    assert max(int(short_a.max()), int(short_b.max())) < 2**17


def test_channels_of_zeros_stay_zero_and_do_not_choose_the_shift() -> None:
    m, e = torch.tensor([0, 3 << 28]), torch.tensor([1, 40])
    shift, short = shortened(e, m, form=Form())
    assert (shift.tolist(), short.tolist()) == ([27, 27], [0, 3 << 15])
    zeros = shortened(torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), form=Form())
    assert int(zeros[1].abs().max()) == 0
    assert int(zeros[0].min()) >= 1


def test_a_ratio_that_no_shift_fits_is_refused() -> None:
    m, e = encode_ratios(2.0**20, 8)
    with pytest.raises(IntVitError, match=r"does not fit a multiplier of 17 bits; take quant/hardware=free"):
        shortened(e[None], m[None], form=Form())


def test_powers_of_two_are_the_largest_below_the_ratio() -> None:
    for value in (255 / 2**30, 0.5, 0.75, 1.0, 3.9, 200.0, 2.0**-40):
        m, e = encode_ratios(value, 8, signed=False)
        one, shift = power_of_two(m, e)
        power = Fraction(int(one), 2 ** int(shift))
        assert power <= Fraction(int(m), 2 ** int(e)) < 2 * power
        assert int(shift) >= 1
        assert int(one) & (int(one) - 1) == 0


@pytest.mark.parametrize("method", ["exact", "ivit", "ibert"])
def test_a_layernorm_of_short_integers_is_within_a_step_of_the_long_one(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    gamma = torch.rand(64, generator=generator, dtype=torch.float64) * 2
    gamma[::5] = 0.0
    beta = torch.randn(64, generator=generator, dtype=torch.float64)
    long = derive_layernorm(method, gamma, beta, 0.03, 16, 8)
    short = long.fitted(Form())
    x = torch.randint(-(2**15), 2**15, (50, 64), generator=generator)
    assert (layernorm(x, long) - layernorm(x, short)).abs().max() <= 1
    assert int(short.multiplier.abs().max()) < 2**17
    assert len(set(short.shift.tolist())) == 1
    assert short.normalizer.normalizer_shift - long.normalizer.normalizer_shift == (6 if method == "exact" else 7)
