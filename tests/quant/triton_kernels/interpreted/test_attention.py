"""Attention's two products with their requantizations: equal to intvit.arithmetic for every form of softmax."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.quant import triton_kernels
from tests.support.draws import draw
from tests.support.triton_operators import called

# images, windows, heads, tokens, size: tiny; windows of odd heads; more than one tile of tokens, and of a head
SHAPES = [(2, 1, 3, 5, 4), (1, 4, 2, 9, 17), (1, 1, 2, 70, 8), (1, 1, 1, 3, 200)]
MASKED = pytest.mark.parametrize("masked", [False, True])


def operands(shape: tuple[int, ...], bits: int = 8) -> tuple[Tensor, Tensor]:
    """qkv int8 (B, W * N, 3C), and its parts int64 (3, B, W, heads, N, D)."""
    images, windows, heads, tokens, size = shape
    low, high = arithmetic.limits(bits)
    qkv = draw(tokens, low, high, images, windows * tokens, 3 * heads * size).to(torch.int8)
    parts = qkv.long().view(images, windows, tokens, 3, heads, size).permute(3, 0, 1, 4, 2, 5)
    return qkv, parts


def merged(context: Tensor) -> Tensor:
    """(B, W, heads, N, D) -> (B, W * N, C)."""
    return context.transpose(2, 3).flatten(3).flatten(1, 2)


def exclusions(shape: tuple[int, ...]) -> Tensor:
    """bool (W, 1, N, N), never a whole row, and the last window without any."""
    _, windows, _, tokens, _ = shape
    excluded = draw(7, 0, 1, windows, 1, tokens, tokens) == 1
    excluded[..., torch.arange(tokens), torch.arange(tokens)] = False
    excluded[-1, :, :, -1] = windows == 1 and tokens > 1
    excluded[..., -1, :] = False
    return excluded


def real(value: Tensor, m: Tensor, e: Tensor) -> Tensor:
    return value.double() * arithmetic.real_multiplier(m, e)


def largest(value: Tensor) -> Tensor:
    return value.abs().flatten(1).amax(1, keepdim=True)


@pytest.mark.parametrize("bits", range(2, 17))
@MASKED
def test_logits_are_the_requantized_product_and_excluded_ones_have_no_magnitude(bits: int, masked: bool) -> None:
    """Ratios from where all logits are 0 or -1 to where all saturate."""
    shape, ratio = SHAPES[bits % 4], 2.0 ** (bits - 20 + 7 * (bits % 3))
    qkv, (q, k, _) = operands(shape)
    m, e = arithmetic.encode_ratios(torch.tensor([ratio], dtype=torch.float64), bits)
    excluded = exclusions(shape) if masked else None
    heads, windows = shape[2], shape[1]
    arguments = (qkv, heads, windows, m, e, bits, None, None, excluded)
    logits, magnitudes = called(triton_kernels.attention_logits, *arguments, True)
    products = q @ k.transpose(-1, -2)
    assert logits.dtype == arithmetic.container(bits)
    assert torch.equal(logits.long(), arithmetic.requantize(products, m, e, bits))
    counted = products if excluded is None else products.masked_fill(excluded, 0)
    assert torch.equal(magnitudes, largest(real(counted, m, e)))
    assert called(triton_kernels.attention_logits, *arguments)[1].shape == (0, 1)


@pytest.mark.parametrize("bits", range(2, 17))
@MASKED
def test_logits_with_a_bias_have_one_rounding(bits: int, masked: bool) -> None:
    shape, ratio = SHAPES[bits % 4], 2.0 ** (bits - 20 + 7 * (bits % 3))
    qkv, (q, k, _) = operands(shape)
    _, windows, heads, tokens, _ = shape
    bias = draw(11, -(2**15) + 1, 2**15 - 1, heads, tokens, tokens).to(torch.int16)
    ratios = torch.tensor([[ratio], [2.0 ** (bits - 17)]], dtype=torch.float64)
    m, m_b, e = arithmetic.encode_pair(*ratios, bits)
    excluded = exclusions(shape) if masked else None
    arguments = (qkv, heads, windows, m, e, bits, bias, m_b, excluded, True)
    logits, magnitudes = called(triton_kernels.attention_logits, *arguments)
    products = q @ k.transpose(-1, -2)
    assert torch.equal(logits.long(), arithmetic.add(products, bias, m, m_b, e, bits))
    value = real(products, m, e) + real(bias, m_b, e)
    assert torch.equal(magnitudes, largest(value if excluded is None else value.masked_fill(excluded, 0.0)))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("weight_bits", [8, 16])
def test_the_weighted_mean_is_the_definition_and_its_magnitude_the_float64_form(bits: int, weight_bits: int) -> None:
    """Ratios from where all codes are 0 or -1, the shift at its cap, to where all saturate."""
    weight_bits -= bits % 5
    shape, ratio = SHAPES[bits % 4], 2.0 ** (bits - [7, 57, -7][bits % 3])
    qkv, (_, _, v) = operands(shape)
    images, windows, heads, tokens, _ = shape
    limit = arithmetic.largest_weight(weight_bits, tokens)
    weights = draw(weight_bits, 0, limit, images, windows, heads, tokens, tokens)
    weights[..., 0] = limit  # a row's maximum has the largest weight
    weights[..., 0, 1:] = 0
    total = weights.sum(-1, keepdim=True)
    m, e = (torch.as_tensor(value) for value in arithmetic.derive_mean(ratio, bits))
    arguments = (weights.to(arithmetic.container(weight_bits, False)), qkv, total.to(torch.int32), m, e, bits)
    context, magnitudes = called(triton_kernels.weighted_mean, *arguments, True)
    sums = weights @ v
    assert context.dtype == arithmetic.container(bits)
    assert torch.equal(context.long(), merged(arithmetic.weighted_mean(sums, total, m, e, bits)))
    factor = torch.floor(m.double() / total.double()) / (1 << e).double()
    assert torch.equal(magnitudes, largest(sums.double() * factor))
    assert called(triton_kernels.weighted_mean, *arguments)[1].shape == (0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_bits", [4, 8, 12, 16])
@pytest.mark.parametrize("normalization", ["rounded", "floor"])
def test_the_product_of_probabilities_is_requantized_as_defined(
    shape: tuple[int, ...], weight_bits: int, normalization: str
) -> None:
    qkv, (_, _, v) = operands(shape)
    images, windows, heads, tokens, _ = shape
    signed = normalization == "floor"
    limit = ((1 << (weight_bits - signed)) - 1) if tokens < 100 else 1
    weights = draw(weight_bits, 0, limit, images, windows, heads, tokens, tokens)
    m, e = arithmetic.encode_ratios(torch.tensor([1.3 * 2.0**-weight_bits], dtype=torch.float64), 8)
    arguments = (weights.to(arithmetic.container(weight_bits, signed)), qkv, m, e, 8)
    context, magnitudes = called(triton_kernels.weighted_requantize, *arguments, True)
    sums = weights @ v
    assert torch.equal(context.long(), merged(arithmetic.requantize(sums, m, e, 8)))
    assert torch.equal(magnitudes, largest(real(sums, m, e)))
    assert called(triton_kernels.weighted_requantize, *arguments)[1].shape == (0, 1)
