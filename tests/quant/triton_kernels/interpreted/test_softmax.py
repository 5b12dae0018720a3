"""Softmax by look-up: weights and probabilities those of intvit.arithmetic; the gradient the float softmax's."""

import math

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.quant import triton_kernels
from intvit.quant.kernels import eager
from tests.support.draws import draw
from tests.support.families import exponent_of
from tests.support.triton_operators import called

SHAPES = [(2, 1, 3, 5), (1, 4, 2, 9), (1, 1, 2, 33)]  # images, windows, heads, tokens
LONG = (1, 1, 1, 300)  # rows of two blocks


def operands(shape: tuple[int, ...], bits: int, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Logit codes with both ends of the range, a constant row, and rows of a few steps; exclusions or None."""
    images, windows, heads, tokens = shape
    low, high = arithmetic.limits(bits)
    logits = draw(tokens + bits, low, high, images, windows, heads, tokens, tokens)
    logits[..., ::2, :] >>= bits - 2
    logits[..., 1, :] = low
    excluded = None
    if masked:
        excluded = draw(bits, 0, 1, windows, 1, tokens, tokens) == 1
        excluded[..., torch.arange(tokens), torch.arange(tokens)] = False
        logits = torch.where(excluded & (draw(3, 0, 1, *logits.shape) == 1), high, logits)  # larger than what counts
    return logits.to(arithmetic.container(bits)), excluded


@pytest.mark.parametrize(
    ("shape", "bits", "weight_bits"),
    [*((SHAPES[bits % 3], bits, 4 + bits * 5 % 13) for bits in range(2, 17)), (LONG, 8, 8), (LONG, 16, 12)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_weights_are_the_definition_and_total_is_the_sum_of_each_row(
    shape: tuple[int, ...], bits: int, weight_bits: int, masked: bool
) -> None:
    logits, excluded = operands(shape, bits, masked)
    tokens = shape[-1]
    exponent = exponent_of("ivit", 12.0 / 2**bits, tokens, bits)
    m, e = arithmetic.derive_weights(arithmetic.exponent_table(exponent, bits), weight_bits, tokens)
    table = arithmetic.weight_table(arithmetic.exponent_table(exponent, bits), m, e, weight_bits)
    weights, total = called(triton_kernels.weights, logits, table, excluded)
    expected = arithmetic.exponential(logits, exponent, m, e, weight_bits, excluded)
    assert weights.dtype == arithmetic.container(weight_bits, False)
    assert torch.equal(weights.long(), expected)
    assert torch.equal(total.long(), expected.sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("shape", "logit_bits", "bits", "family"),
    [
        *((SHAPES[bits % 3], 8, bits, "ivit") for bits in range(2, 17)),
        (SHAPES[1], 4, 8, "ibert"),
        (SHAPES[0], 16, 9, "lut"),
        (LONG, 8, 9, "lut"),
    ],
)
@pytest.mark.parametrize("normalization", ["rounded", "floor"])
def test_probabilities_are_the_definition(
    shape: tuple[int, ...], logit_bits: int, bits: int, family: str, normalization: str
) -> None:
    masked = bits % 2 == 1
    logits, excluded = operands(shape, logit_bits, masked)
    exponent = exponent_of(family, 12.0 / 2**logit_bits, shape[-1], logit_bits)
    table = arithmetic.exponent_table(exponent, logit_bits)
    expected = arithmetic.softmax(logits, exponent, bits, normalization, excluded)
    result = called(triton_kernels.probabilities, logits, table, bits, normalization, excluded)
    assert result.dtype == arithmetic.container(bits, normalization == "floor")
    assert torch.equal(result.long(), expected)


def test_the_reciprocal_of_a_power_of_two_is_a_little_low() -> None:
    """(2^46 - 1) / sum: eight equal logits have probabilities of less than half a step of 1/4, which round to 0."""
    logits, table = torch.zeros(1, 1, 1, 8, 8, dtype=torch.int8), torch.full((256,), 2.0**15, dtype=torch.float64)
    assert not called(triton_kernels.probabilities, logits, table, 2, "rounded").any()
    assert not arithmetic.softmax_from_table(logits, table, 2).any()


def test_probabilities_take_a_table_of_integers_too() -> None:
    logits, _ = operands(SHAPES[0], 8, False)
    table = arithmetic.exponent_table(exponent_of("ivit", 0.05, 5, 8), 8)
    expected = arithmetic.softmax_from_table(logits, table, 8)
    assert torch.equal(called(triton_kernels.probabilities, logits, table.long(), 8, "rounded"), expected)


def test_probabilities_of_real_exponentials_are_those_of_torch() -> None:
    logits, excluded = operands((2, 1, 3, 5), 8, True)
    table = arithmetic.exponent_table(exponent_of("float", 0.05, 5, 8), 8)
    result = called(triton_kernels.probabilities, logits, table, 8, "rounded", excluded)
    assert torch.equal(result, arithmetic.softmax_from_table(logits, table, 8, "rounded", excluded))


@pytest.mark.parametrize(("shape", "bits"), [*zip(SHAPES, (4, 8, 16), strict=True), (SHAPES[1], 2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_the_float_softmaxs_and_zero_where_excluded_or_saturated(
    shape: tuple[int, ...], bits: int, masked: bool, dtype: torch.dtype
) -> None:
    logits, excluded = operands(shape, bits, masked)
    scale = torch.tensor([12.0 / 2**bits], dtype=torch.float64)
    gradient = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    result = called(triton_kernels.softmax_gradient, gradient, logits, scale, bits, excluded)
    real = logits.double() * scale
    softmax = torch.softmax(real if excluded is None else real.masked_fill(excluded, -math.inf), -1)
    expected = eager.mask(torch._softmax_backward_data(gradient.double(), softmax, -1, torch.float64), logits, bits)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-6)
    assert bool((result[~inside(logits, bits)] == 0).all())
    assert excluded is None or bool((result.masked_select(excluded.expand(result.shape)) == 0).all())


def test_the_gradient_of_rows_of_several_blocks_sums_over_all_of_them() -> None:
    logits, _ = operands(LONG, 8, False)
    gradient, scale = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5)), torch.tensor(0.02)
    softmax = torch.softmax(logits * scale, -1)
    expected = eager.mask(torch._softmax_backward_data(gradient, softmax, -1, torch.float32), logits, 8)
    result = called(triton_kernels.softmax_gradient, gradient, logits, scale, 8)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-7)


def inside(codes: Tensor, bits: int) -> Tensor:
    low, high = arithmetic.limits(bits)
    return (codes > low) & (codes < high)
