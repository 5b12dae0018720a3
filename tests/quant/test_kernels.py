"""Compiled kernels give the integers of the normative functions.

Every variant takes the compiler seconds. One of each kernel is in the fast tests, the others are slow.
"""

import pytest
import torch

from intvit import arithmetic
from intvit.quant.kernels.compiled import compiled
from intvit.quant.kernels.eager import EAGER
from tests.support.families import exponent_of


def codes(shape: tuple[int, ...], bits: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = arithmetic.limits(bits)
    return torch.randint(low, high + 1, shape, generator=generator).to(arithmetic.container(bits))


@pytest.mark.parametrize("bits", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_compiled_requantize_and_add_equal_the_definition(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    acc = torch.randint(-(2**26), 2**26, (40, 24), generator=generator, dtype=torch.int32)
    stream = codes((40, 24), 16, 1)
    ratios = torch.rand(24, generator=generator, dtype=torch.float64) * 1e-4
    m, e = arithmetic.encode_ratios(ratios, bits)
    for kernels in (EAGER, compiled()):
        result, magnitudes = kernels.requantize(acc.view(4, 10, 24), m, e, bits, 3, True)
        assert torch.equal(result.view(40, 24).to(acc.dtype), arithmetic.requantize(acc, m, e, bits).to(acc.dtype))
        real = (acc.double() * arithmetic.real_multiplier(m, e)).abs()
        assert torch.equal(magnitudes, real.view(4, 10, 3, 8).amax((1, 3)))
    m_a, m_b, e = arithmetic.encode_pair(ratios, ratios * 1e4, bits)
    expected = arithmetic.add(acc, stream, m_a, m_b, e, bits)
    real = acc.double() * arithmetic.real_multiplier(m_a, e) + stream.double() * arithmetic.real_multiplier(m_b, e)
    for kernels in (EAGER, compiled()):
        result, magnitudes = kernels.add(acc.view(4, 10, 24), stream.view(4, 10, 24), m_a, m_b, e, bits, True)
        assert torch.equal(result.view(40, 24).to(torch.int64), expected)
        assert torch.equal(magnitudes[:, 0], real.abs().view(4, -1).amax(1))


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("exact", 8),
        *(pytest.param(method, 8, marks=pytest.mark.slow) for method in ("ivit", "ibert")),
        *(pytest.param(method, 16, marks=pytest.mark.slow) for method in ("exact", "ivit", "ibert")),
    ],
)
def test_compiled_layernorm_equals_the_definition_for_every_method(method: str, bits: int) -> None:
    generator = torch.Generator().manual_seed(1)
    gamma, beta = torch.randn(2, 48, generator=generator, dtype=torch.float64)
    gamma[::5] = 0.0
    shift = torch.randint(0, 4, (48,), generator=generator) if bits == 8 else None
    x = codes((30, 48), bits, 2)
    x[0] = 5  # a constant row
    parameters = arithmetic.derive_layernorm(method, gamma, beta, 0.03, bits, 8, channel_shift=shift)
    n, e = arithmetic.normalized(x, parameters.normalizer).double(), parameters.shift
    half = torch.ones_like(e) << (e - 1)
    constant = arithmetic.real_multiplier(parameters.bias + half, e)
    real = n * arithmetic.real_multiplier(parameters.multiplier, e) + constant - 0.5
    for kernels in (EAGER, compiled()):
        result, magnitudes = kernels.layernorm(x.view(3, 10, 48), parameters, True)
        assert torch.equal(result.view(30, 48).to(torch.int64), arithmetic.layernorm(x, parameters))
        assert torch.equal(magnitudes[:, 0], real.abs().view(3, -1).amax(1))


@pytest.mark.parametrize(
    ("bits", "ratio"),
    [(8, 1.7), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 0.1), (16, 300.0)))],
)
def test_compiled_weighted_mean_equals_the_definition(bits: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(4)
    total = torch.randint(255, 50_000, (30, 9, 1), generator=generator)
    sums = (torch.rand(30, 9, 16, generator=generator) * 256 - 128).mul(total).long()
    m, e = arithmetic.derive_mean(ratio, bits)
    mean = compiled().deferred.args[0]  # the part of it that is compiled
    factor = torch.floor(m.double() / total.double()) / (torch.ones_like(e) << e).double()
    for kernel in (EAGER.deferred.args[0], mean):
        result, magnitudes = kernel(sums.float(), total.float(), m, e, bits, 5, True)
        assert torch.equal(result.to(torch.int64), arithmetic.weighted_mean(sums, total, m, e, bits))
        assert torch.equal(magnitudes[:, 0], (sums.double() * factor).abs().view(5, -1).amax(1))


@pytest.mark.parametrize(
    ("bits", "normalization"),
    [(8, "rounded"), *(pytest.param(16, form, marks=pytest.mark.slow) for form in ("rounded", "floor"))],
)
def test_compiled_softmax_equals_the_definition_for_every_family(bits: int, normalization: str) -> None:
    logits = codes((50, 37), 8, 3)
    for family in ("ivit", "ibert", "ppoly", "lut"):
        exponent = exponent_of(family, 0.11, 37, 8)
        table = arithmetic.exponent_table(exponent, 8)
        expected = arithmetic.softmax(logits, exponent, bits, normalization)
        result = compiled().normalized.args[0](logits, table, bits, normalization)
        assert torch.equal(result.to(torch.int64), expected), family
