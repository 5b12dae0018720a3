"""Deferred normalization: weights and weighted means equal unbounded integers, their fast forms equal them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.arithmetic import (
    derive_mean,
    derive_weights,
    exponent_table,
    exponential,
    exponential_from_table,
    largest_weight,
    softmax,
    softmax_from_table,
    weight_table,
    weighted_mean,
    weighted_mean_float64,
)
from tests.arithmetic import reference
from tests.support.families import exponent_of
from tests.support.logits import EXPORTABLE, random_logits

LIMIT = 2**53 - 1


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("family", EXPORTABLE)
def test_weights_equal_unbounded_integers_and_the_table_form_equals_them(family, bits):
    for scale in (2.0**-14, 0.01, 0.07, 0.5, 30.0, 2.0**10):
        for logit_bits in (4, 8):
            logits = random_logits(12, 50, logit_bits)
            exponent = exponent_of(family, scale, 50, logit_bits)
            m, e = derive_weights(exponent_table(exponent, logit_bits), bits, 50)
            fields, shape = reference.fields_of(exponent), (m.item(), e.item(), bits, False)
            expected = [
                [reference.requantize(reference.exponential(x - max(row), exponent.kind, fields), *shape) for x in row]
                for row in logits.tolist()
            ]
            assert exponential(logits, exponent, m, e, bits).tolist() == expected
            table = weight_table(exponent_table(exponent, logit_bits), m, e, bits)
            assert exponential_from_table(logits, table).tolist() == expected
            assert max(map(max, expected)) == largest_weight(bits, 50)


@pytest.mark.parametrize(("length", "logit_bits"), [(1, 8), (577, 8), (300, 16), (2**15, 8)])
def test_weights_on_long_rows_in_chunks(length, logit_bits):
    logits = random_logits(300 if length < 2**15 else 8, length, logit_bits)
    for family in EXPORTABLE:
        exponent = exponent_of(family, 0.05, length, logit_bits)
        m, e = derive_weights(exponent_table(exponent, logit_bits), 8, length)
        fast = exponential_from_table(logits, weight_table(exponent_table(exponent, logit_bits), m, e, 8))
        assert torch.equal(fast.to(torch.int64), exponential(logits, exponent, m, e, 8))


def test_the_largest_weights_of_a_row_times_128_fit_int32():
    for bits in (2, 8, 12, 16):
        for length in (1, 2, 197, 256, 257, 577, 2**15):
            assert 1 <= largest_weight(bits, length) <= 2**bits - 1
            assert largest_weight(bits, length) * length * 128 < 2**31
    assert largest_weight(8, 2**15) == 255
    assert largest_weight(16, 197) == 65535


@settings(deadline=None, max_examples=300)
@given(
    total=st.one_of(st.integers(1, 2**31 - 1), st.integers(1, 600)),
    share=st.one_of(st.floats(-128, 255), st.sampled_from([-128.0, -1.0, 0.0, 1.0, 127.0, 255.0])),
    m=st.one_of(st.integers(0, LIMIT), st.sampled_from([0, 1, LIMIT, 2**46, 2**46 - 1])),
    bits=st.integers(2, 16),
    below_cap=st.integers(0, 60),
)
def test_weighted_mean_is_exact_and_float64_equals_it(total, share, m, bits, below_cap):
    e = max(1, 53 - (bits - 1) - below_cap)
    sums = max(-128 * total, min(255 * total, int(share * total)))
    expected = reference.requantize(sums, m // total, e, bits)
    arguments = torch.tensor([[sums]]), torch.tensor([[total]])
    assert weighted_mean(*arguments, m, e, bits).tolist() == [[expected]]
    for dtype in (torch.int64, torch.float64):
        sums, total = (x.to(dtype) for x in arguments)
        assert weighted_mean_float64(sums, total, torch.tensor(m), torch.tensor(e), bits).tolist() == [[expected]]


def test_rows_that_are_not_contiguous_are_taken_too():
    logits = random_logits(20, 30).t()
    exponent = exponent_of("lut", 0.05, 20, 8)
    m, e = derive_weights(exponent_table(exponent, 8), 8, 20)
    fast = exponential_from_table(logits, weight_table(exponent_table(exponent, 8), m, e, 8))
    assert torch.equal(fast.to(torch.int64), exponential(logits, exponent, m, e, 8))
    table = exponent_table(exponent, 8)
    assert torch.equal(softmax_from_table(logits, table, 8).to(torch.int64), softmax(logits, exponent, 8))


def test_no_weight_of_a_coarse_polynomial_is_above_the_largest():
    # its exponential is a little higher beside the maximum than at it
    exponent = exponent_of("ppoly", 0.000494825903689, 283, 4, segments=8, degree=3, coefficient_bits=8)
    table = exponent_table(exponent, 4)
    assert table.max() > table[0]
    m, e = derive_weights(exponent_table(exponent, 4), 16, 283)
    assert weight_table(exponent_table(exponent, 4), m, e, 16).max() == largest_weight(16, 283)


def test_the_quotient_is_exact_beside_every_kind_of_total():
    totals = torch.cat((torch.arange(1, 3000), torch.tensor([2**31 - 1, 2**24 - 1, 2**24, 50235])))
    for m in (LIMIT, 2**52, 2**52 - 1, 2**46, 3 * 5 * 7 * 11 * 13 * 17 * 19 * 23, *(totals[-5:] ** 2 - 1).tolist()):
        m = min(m, LIMIT)
        exact = torch.tensor([m // t for t in totals.tolist()])
        assert torch.equal(torch.floor(torch.tensor(m).double() / totals.double()).to(torch.int64), exact)


@settings(deadline=None, max_examples=200)
@given(ratio=st.floats(2.0**-60, 2.0**49), bits=st.integers(2, 16))
def test_the_multiplier_of_a_mean_stays_in_its_bounds(ratio, bits):
    m, e = (value.item() for value in derive_mean(ratio, bits))
    assert 0 <= m <= LIMIT
    assert 1 <= e <= 53 - (bits - 1)
    assert abs(m / 2**e - ratio) <= max(ratio * 2.0**-51, 2.0 ** -(54 - bits))


def test_ratios_that_have_no_multiplier_are_errors():
    for ratio in (0.0, -1.0, float("nan"), float("inf"), 2.0**52):
        with pytest.raises(ValueError, match="ratio of scales"):
            derive_mean(ratio, 8)


def test_deferred_attention_is_closer_to_the_real_one_than_8_bit_probabilities():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, (197, 64), generator=generator)
    logits = random_logits(200, 197)[3:]
    for scale in (0.01, 0.05, 0.2):
        real = torch.softmax(logits.double() * scale, -1) @ values.double()
        exponent = exponent_of("lut", scale, 197, 8)
        weights = exponential(logits, exponent, *derive_weights(exponent_table(exponent, 8), 8, 197), 8)
        mean = (weights @ values) / weights.sum(-1, keepdim=True)
        probabilities = softmax(logits, exponent, 8, "rounded") @ values / 256
        assert (mean - real).square().mean() < 0.1 * (probabilities - real).square().mean()
