"""Accumulators to codes: every integer that of intvit.arithmetic, every magnitude the float64 that torch gives."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.quant import triton_kernels
from tests.support.draws import draw
from tests.support.triton_operators import called


def factor(m: Tensor, e: Tensor) -> Tensor:
    return m.double() / (torch.ones_like(e) << e).double()


def ratios(seed: int, channels: int, bits: int) -> Tensor:
    """From zero over capped small ones to ones that saturate everything, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-60, 20, (channels,), generator=generator)
    ratio = (torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5) * 2.0**exponents
    ratio[::5] = 2.0 ** (bits - 1) / 2.0**31  # accumulators fill the width
    ratio[1::7] = 0.0
    return torch.where(draw(seed, 0, 1, channels) == 0, ratio, -ratio)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("groups", [1, 3])
def test_requantize_gives_the_definitions_codes_and_the_largest_product_of_every_group(bits: int, groups: int) -> None:
    acc = draw(bits, -(2**31), 2**31 - 1, 2, 5, 12).to(torch.int32)
    acc[1] >>= 9 + bits
    m, e = arithmetic.encode_ratios(ratios(bits, 12, bits), bits)
    codes, magnitudes = called(triton_kernels.requantize, acc, None, m, e, bits, groups, True)
    assert codes.dtype == arithmetic.container(bits)
    assert torch.equal(codes.long(), arithmetic.requantize(acc, m, e, bits))
    real = (acc.double() * factor(m, e)).abs().amax(1)
    assert torch.equal(magnitudes, real.view(2, groups, -1).amax(2))


@pytest.mark.parametrize(("tokens", "channels", "groups"), [(1, 1, 1), (70, 129, 3), (3, 384, 3), (2, 520, 1)])
def test_requantize_takes_any_shape_a_bias_and_one_multiplier(tokens: int, channels: int, groups: int) -> None:
    acc = draw(1, -(2**29), 2**29, 2, tokens, channels).to(torch.int32)
    bias = draw(2, -(2**30), 2**30, channels).to(torch.int32)
    m, e = arithmetic.encode_ratios(torch.tensor([3e-8], dtype=torch.float64), 8)
    for multiplier, shift in ((m, e), (m[0], e[0])):
        codes, magnitudes = called(triton_kernels.requantize, acc, bias, multiplier, shift, 8, groups, True)
        joined = acc + bias
        assert torch.equal(codes.long(), arithmetic.requantize(joined, m, e, 8))
        real = (joined.double() * factor(m, e)).abs().amax(1)
        assert torch.equal(magnitudes, real.view(2, groups, -1).amax(2))
    assert called(triton_kernels.requantize, acc, bias, m, e, 8)[1].shape == (0, 1)


@pytest.mark.parametrize("bits", range(2, 17))
def test_add_gives_the_definitions_codes_and_the_largest_real_sum_of_every_image(bits: int) -> None:
    a = draw(bits, -(2**31), 2**31 - 1, 2, 5, 12).to(torch.int32)
    a[1] >>= 9 + bits
    stream_bits = 8 if bits % 2 else 16
    low, high = arithmetic.limits(stream_bits)
    b = draw(bits + 1, low, high, 2, 5, 12).to(arithmetic.container(stream_bits))
    m_a, m_b, e = arithmetic.encode_pair(ratios(bits, 12, bits), ratios(bits + 50, 12, bits) + 2.0**-9, bits)
    codes, magnitudes = called(triton_kernels.add, a, None, b, m_a, m_b, e, bits, True)
    assert codes.dtype == arithmetic.container(bits)
    assert torch.equal(codes.long(), arithmetic.add(a, b, m_a, m_b, e, bits))
    real = a.double() * factor(m_a, e) + b.double() * factor(m_b, e)
    assert torch.equal(magnitudes, real.abs().amax((1, 2))[:, None])


@pytest.mark.parametrize(("tokens", "channels"), [(1, 1), (70, 129), (3, 384)])
def test_add_takes_any_shape_a_bias_and_one_multiplier(tokens: int, channels: int) -> None:
    a = draw(1, -(2**29), 2**29, 2, tokens, channels).to(torch.int32)
    bias = draw(2, -(2**30), 2**30, channels).to(torch.int32)
    b = draw(3, -(2**15), 2**15 - 1, 2, tokens, channels).to(torch.int16)
    m_a, m_b, e = arithmetic.encode_pair(torch.tensor([1e-5]).double(), torch.tensor([0.7]).double(), 16)
    codes, magnitudes = called(triton_kernels.add, a, bias, b, m_a, m_b, e, 16, True)
    assert torch.equal(codes.long(), arithmetic.add(a + bias, b, m_a, m_b, e, 16))
    real = (a + bias).double() * factor(m_a, e) + b.double() * factor(m_b, e)
    assert torch.equal(magnitudes, real.abs().amax((1, 2))[:, None])
    assert called(triton_kernels.add, a, bias, b, m_a, m_b, e, 16)[1].shape == (0, 1)
