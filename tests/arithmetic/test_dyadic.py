"""Ratios, requantization, residual add and input: exact against unbounded integers, float64 forms equal to them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.arithmetic import (
    add,
    add_float64,
    encode_pair,
    encode_ratios,
    input_parameters,
    limits,
    quantize_input,
    requantize,
    requantize_float64,
    shift_cap,
)
from tests.arithmetic import reference

LONGEST = 2**31 - 1
widths = st.integers(2, 32)
ratios = st.floats(-(2.0**29), 2.0**29, allow_subnormal=True)
accumulators = st.one_of(
    st.integers(-(2**31), 2**31), st.sampled_from([-(2**31), 2**31 - 1, 2**31, 0, 1, -1]), st.integers(-300, 300)
)
multipliers = st.one_of(
    st.integers(-LONGEST, LONGEST), st.sampled_from([LONGEST, -LONGEST, 2**30, -(2**30), 0, 1, LONGEST - 1])
)


def encoded(ratio: float, *args, **options) -> tuple[int, int]:
    """`encode_ratios` of one number."""
    m, e = encode_ratios(ratio, *args, **options)
    assert m.shape == e.shape == ()
    return m.item(), e.item()


@settings(deadline=None, max_examples=200)
@given(ratio=ratios, bits=widths, signed=st.booleans(), reserve=st.integers(0, 1), operand=st.integers(20, 50))
def test_encodings_equal_the_definition_in_pythons_numbers(ratio, bits, signed, reserve, operand):
    options = {"signed": signed, "reserve": reserve, "operand_bits": operand}
    if operand > 31 and abs(ratio) >= 2.0 ** (61 - operand):
        with pytest.raises(ValueError, match="output scale is too small"):
            encode_ratios(ratio, bits, **options)
        with pytest.raises(ValueError, match="output scale is too small"):
            encode_ratios(torch.tensor([ratio], dtype=torch.float64), bits, **options)
        return
    expected = reference.encode_ratio(ratio, bits, signed, reserve, operand)
    m, e = encode_ratios(torch.tensor([ratio, 0.0, -ratio], dtype=torch.float64), bits, **options)
    assert encoded(ratio, bits, **options) == (m[0].item(), e[0].item()) == expected
    assert encoded(ratio, bits, **options | {"operand_bits": torch.tensor(operand)}) == expected
    assert (m[1].item(), e[1].item()) == (0, 1)
    assert (m[2].item(), e[2].item()) == (-expected[0], expected[1])


@settings(deadline=None, max_examples=200)
@given(ratio=ratios, bits=widths, signed=st.booleans())
def test_uncapped_ratio_has_31_bits_and_an_error_below_2_to_the_minus_30(ratio, bits, signed):
    m, e = encoded(ratio, bits, signed=signed)
    assert 1 <= e <= shift_cap(bits, signed)
    if ratio != 0 and e < shift_cap(bits, signed):
        assert 2**30 <= abs(m) <= LONGEST
        assert abs(math.ldexp(m, -e) - ratio) <= abs(ratio) * 2.0**-30
    else:
        assert abs(math.ldexp(m, -e) - ratio) <= 2.0 ** -(e + 1)


@pytest.mark.parametrize("ratio", [2.0**30, -(2.0**30), 1e300, math.inf, math.nan])
def test_ratio_without_an_encoding_is_an_error_that_says_why(ratio):
    sentence = "output scale is too small" if math.isfinite(ratio) else "scales must be finite"
    with pytest.raises(ValueError, match=sentence):
        encode_ratios(ratio, 8)
    with pytest.raises(ValueError, match=sentence):
        encode_ratios(torch.tensor([0.5, ratio], dtype=torch.float64), 8)


def test_ratio_just_below_a_power_of_two_keeps_31_bits():
    below = math.nextafter(1.0, 0.0)
    assert encoded(below, 8) == (LONGEST, 31)
    assert encoded(1.0, 8) == (2**30, 30)


@settings(deadline=None, max_examples=200)
@given(a=ratios, b=ratios, bits=st.integers(2, 16))
def test_pair_shares_the_shift_of_the_larger_ratio(a, b, bits):
    m_a, m_b, e = (t.item() for t in encode_pair(torch.tensor([a]).double(), torch.tensor([b]).double(), bits))
    a, b = (float(torch.tensor([r]).double()) for r in (a, b))
    larger = max(a, b, key=abs)
    expected = encoded(larger, bits, reserve=1)
    assert e == expected[1]
    assert (m_a if abs(a) >= abs(b) else m_b) == (expected[0] if larger else 0)
    assert abs(math.ldexp(m_a, -e) - a) <= 2.0 ** -(e + 1) + abs(a) * 2.0**-30
    assert abs(math.ldexp(m_b, -e) - b) <= 2.0 ** -(e + 1) + abs(b) * 2.0**-30


@settings(deadline=None, max_examples=200)
@given(acc=accumulators, m=multipliers, bits=widths, signed=st.booleans(), below_cap=st.integers(0, 60))
def test_requantize_is_exact_and_float64_equals_it(acc, m, bits, signed, below_cap):
    e = max(1, shift_cap(bits, signed) - below_cap)
    if signed or bits <= 16:
        expected = reference.requantize(acc, m, e, bits, signed)
        x = torch.tensor([acc])
        assert requantize(x, m, e, bits, signed).tolist() == [expected]
        assert requantize_float64(x, m, e, bits, signed).tolist() == [expected]


@settings(deadline=None, max_examples=200)
@given(data=st.data(), bits=st.sampled_from([2, 4, 8, 16, 32]), below_cap=st.integers(0, 8))
def test_requantize_rounds_ties_up_and_float64_equals_it_beside_them(data, bits, below_cap):
    e = shift_cap(bits) - below_cap
    m = data.draw(multipliers.filter(lambda m: m != 0))
    low, high = limits(bits)
    tie = data.draw(st.integers(low - 2, high + 2))
    # accumulators around (tie + 1/2) * 2^e / m, where the product is nearest to the boundary of two integers
    near = (2 * tie + 1) * 2**e // (2 * m)
    values = [v for v in range(near - 2, near + 3) if abs(v) <= 2**31]
    if values:
        expected = [reference.requantize(v, m, e, bits) for v in values]
        x = torch.tensor(values)
        assert requantize(x, m, e, bits).tolist() == expected
        assert requantize_float64(x, m, e, bits).tolist() == expected


def test_requantize_ties_go_up_for_both_signs():
    acc = torch.tensor([25, -25, 27, -27])
    assert requantize(acc, 2**30, 31, 8).tolist() == [13, -12, 14, -13]
    assert requantize_float64(acc, 2**30, 31, 8).tolist() == [13, -12, 14, -13]


@pytest.mark.parametrize(("bits", "signed"), [(2, True), (6, True), (8, True), (8, False), (16, True), (16, False)])
def test_requantize_by_channel_and_in_chunks_is_equal_to_the_definition(bits, signed):
    generator = torch.Generator().manual_seed(bits)
    acc = torch.randint(-(2**31), 2**31, (5, 700, 96), generator=generator)
    acc[0] >>= 20
    ratio = torch.exp2(-torch.rand(96, generator=generator, dtype=torch.float64) * 30) * (2.0**bits / 2**20)
    m, e = encode_ratios(ratio * torch.randn(96, generator=generator, dtype=torch.float64).sign(), bits, signed=signed)
    result = requantize_float64(acc, m, e, bits, signed)
    assert torch.equal(requantize(acc, m, e, bits, signed), result.to(torch.int64))
    for c in range(0, 96, 7):
        expected = [reference.requantize(v, m[c].item(), e[c].item(), bits, signed) for v in acc[0, :50, c].tolist()]
        assert result[0, :50, c].tolist() == expected


@settings(deadline=None, max_examples=200)
@given(
    a=accumulators,
    b=st.one_of(st.integers(-(2**15), 2**15), st.sampled_from([-(2**15), 2**15 - 1])),
    m_a=multipliers,
    m_b=multipliers,
    bits=st.integers(2, 16),
    below_cap=st.integers(0, 60),
)
def test_residual_add_is_exact_and_float64_equals_it(a, b, m_a, m_b, bits, below_cap):
    e = max(1, 53 - bits - below_cap)
    expected = reference.add(a, b, m_a, m_b, e, bits)
    x, y = torch.tensor([a]), torch.tensor([b])
    assert add(x, y, m_a, m_b, e, bits).tolist() == [expected]
    assert add_float64(x, y, m_a, m_b, e, bits).tolist() == [expected]


@settings(deadline=None, max_examples=200)
@given(
    b=st.integers(-(2**15), 2**15), m_b=multipliers, m_a=multipliers, bits=st.integers(2, 16), around=st.integers(-3, 3)
)
def test_residual_add_of_cancelling_products_is_exact_in_float64(b, m_b, m_a, bits, around):
    if m_a == 0:
        return
    a = -b * m_b // m_a + around
    if abs(a) <= 2**31:
        for e in (1, 30, 53 - bits):
            expected = reference.add(a, b, m_a, m_b, e, bits)
            assert add_float64(torch.tensor([a]), torch.tensor([b]), m_a, m_b, e, bits).tolist() == [expected]
            assert add(torch.tensor([a]), torch.tensor([b]), m_a, m_b, e, bits).tolist() == [expected]


@pytest.mark.parametrize("bits", [8, 16])
def test_residual_add_by_channel_and_in_chunks_is_equal_to_the_definition(bits):
    generator = torch.Generator().manual_seed(bits)
    a = torch.randint(-(2**31), 2**31, (2, 900, 96), generator=generator) >> torch.randint(
        0, 24, (2, 900, 96), generator=generator
    )
    b = torch.randint(*limits(bits), (2, 900, 96), generator=generator).to(torch.int16)
    ratio_a = torch.exp2(-30 * torch.rand(96, generator=generator, dtype=torch.float64))
    m_a, m_b, e = encode_pair(ratio_a, torch.tensor([0.7], dtype=torch.float64), bits)
    assert torch.equal(add(a, b, m_a, m_b, e, bits), add_float64(a, b, m_a, m_b, e, bits).to(torch.int64))


@pytest.mark.parametrize("bits", [4, 8])
def test_every_pixel_value_is_quantized_to_the_nearest_integer(bits):
    mean, std = (0.485, 0.456, 0.0), (0.229, 0.224, 1.0)
    scale = 2.64 / (2 ** (bits - 1) - 1)
    multiplier, bias, shift = input_parameters(mean, std, scale, bits)
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    result = quantize_input(image, multiplier, bias, shift, bits)
    for c in range(3):
        for u, q in zip(range(256), result[c].flatten().tolist(), strict=True):
            real = (u / 255 - mean[c]) / std[c] / scale
            assert q == reference.clamp(math.floor(real + 0.5), bits) or abs(real + 0.5 - round(real + 0.5)) < 1e-6
            integer = u * multiplier[c].item() + bias[c].item() + 2 ** (shift.item() - 1)
            assert q == reference.clamp(reference.int64(integer) >> shift.item(), bits)
