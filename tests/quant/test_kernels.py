"""Compiled kernels give the integers of the normative functions.

Every variant takes the compiler seconds. One of each kernel is in the fast tests, the others are slow.
"""

import pytest
import torch

from intvit import arithmetic
from intvit.quant.kernels import compiled
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
    assert torch.equal(compiled().requantize(acc, m, e, bits), arithmetic.requantize(acc, m, e, bits).to(acc.dtype))
    m_a, m_b, e = arithmetic.encode_pair(ratios, ratios * 1e4, bits)
    expected = arithmetic.add(acc, stream, m_a, m_b, e, bits)
    assert torch.equal(compiled().add(acc, stream, m_a, m_b, e, bits).to(torch.int64), expected)


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
    assert torch.equal(compiled().layernorm(x, parameters).to(torch.int64), arithmetic.layernorm(x, parameters))


@pytest.mark.parametrize(
    ("bits", "ratio"),
    [(8, 1.7), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, 0.1), (16, 300.0)))],
)
def test_compiled_weighted_mean_equals_the_definition(bits: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(4)
    total = torch.randint(255, 50_000, (30, 9, 1), generator=generator)
    sums = (torch.rand(30, 9, 16, generator=generator) * 256 - 128).mul(total).long()
    m, e = arithmetic.derive_mean(ratio, bits)
    result = compiled().weighted_mean(sums.float(), total.float(), m, e, bits)
    assert torch.equal(result.to(torch.int64), arithmetic.weighted_mean(sums, total, m, e, bits))


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
        result = compiled().softmax(logits, table, bits, normalization)
        assert torch.equal(result.to(torch.int64), expected), family
