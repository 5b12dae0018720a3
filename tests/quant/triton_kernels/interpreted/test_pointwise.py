"""Functions of one code, the linear product, and heads to tokens and back: equal to torch, gradients too."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.quant import triton_kernels
from intvit.quant.kernels import eager
from tests.support.draws import draw
from tests.support.families import gelu_of
from tests.support.triton_operators import called, stored

SHAPES = [(1, 1, 1), (2, 37, 5), (2, 3, 600), (3, 200, 64)]
DTYPES = [torch.float32, torch.bfloat16]


def codes_of(bits: int, *shape: int) -> Tensor:
    return draw(bits, *arithmetic.limits(bits), *shape).to(arithmetic.container(bits))


def gradient_of(codes: Tensor, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(codes.shape, generator=generator) * 2.0 ** draw(2, -30, 30, *codes.shape)
    return values.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("family", ["lut", "ivit"])
def test_gelu_is_its_table_and_extremes_are_those_of_the_inputs(shape: tuple[int, ...], bits: int, family: str) -> None:
    """lut: a function of x; ivit: one of x and the row's maximum."""
    function = gelu_of(family, 8.0 / 2**bits, 0.05, bits, 8)
    table = arithmetic.gelu_table(function, bits)
    x = codes_of(bits, *shape)
    x[:, 0] = -(2 ** (bits - 1))  # a row without a positive code
    if shape[0] > 1:
        x[1] = x[1].abs().clamp(min=1, max=2 ** (bits - 1) - 1)
    codes, extremes = called(triton_kernels.gelu, x, table)
    assert torch.equal(codes, arithmetic.apply_gelu_table(x, table))
    assert torch.equal(codes.long(), function(x))
    flat = x.flatten(1)
    assert torch.equal(extremes, torch.stack((flat.amin(1), flat.amax(1)), 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mask_passes_what_does_not_saturate_and_nothing_else(
    shape: tuple[int, ...], bits: int, dtype: torch.dtype
) -> None:
    codes = codes_of(bits, *shape)
    gradient = gradient_of(codes, dtype)
    result = called(triton_kernels.mask, gradient, codes, bits)
    assert result.dtype == dtype
    assert torch.equal(result, eager.mask(gradient.float(), codes, bits).to(dtype))
    infinite = torch.full_like(gradient, torch.inf)
    low, high = arithmetic.limits(bits)
    result = called(triton_kernels.mask, infinite, codes, bits)
    assert torch.equal(result, torch.where((codes > low) & (codes < high), infinite, 0.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_gradient_is_the_product_with_the_derivative_at_each_code(
    shape: tuple[int, ...], bits: int, dtype: torch.dtype
) -> None:
    codes, derivative = codes_of(bits, *shape), torch.randn(2**bits, generator=torch.Generator().manual_seed(3))
    gradient = gradient_of(codes, dtype)
    result = called(triton_kernels.gelu_gradient, gradient, codes, derivative)
    product = gradient.float() * derivative[codes.long() + 2 ** (bits - 1)]
    assert result.dtype == dtype
    assert torch.equal(result, stored(eager.mask(product, codes, bits), dtype))


@pytest.mark.parametrize("shape", [(1, 1), (37, 5), (3, 1600)])
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize_is_one_product_for_each_code(shape: tuple[int, ...], bits: int, dtype: torch.dtype) -> None:
    codes = codes_of(bits, *shape)
    scale = torch.rand(shape[0], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for step in (scale, scale.float()):
        result = called(triton_kernels.dequantize, codes, step, dtype)
        assert result.dtype == dtype
        assert torch.equal(result, stored(codes.float() * step.float()[:, None], dtype))


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 1, 1), (17, 48, 5), (130, 200, 33), (40, 384, 140), (300, 65, 3)]
)
def test_linear_is_the_exact_product_of_any_shape(rows: int, inner: int, columns: int) -> None:
    x, weight = codes_of(8, rows, inner), draw(1, -128, 127, columns, inner).to(torch.int8)
    products = x.long() @ weight.long().t()
    assert torch.equal(called(triton_kernels.linear, x, weight).long(), products)
    bias = draw(2, -(2**30), 2**30, columns).to(torch.int32)
    assert torch.equal(called(triton_kernels.linear, x, weight, bias).long(), products + bias)


HEADS = [(1, 1, 1, 1, 1), (2, 1, 3, 5, 4), (1, 4, 2, 9, 17), (1, 1, 2, 70, 8), (1, 2, 1, 3, 200)]


@pytest.mark.parametrize(("images", "windows", "heads", "tokens", "size"), HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 3])
def test_split_heads_is_the_transpose_of_codes_and_floats(
    images: int, windows: int, heads: int, tokens: int, size: int, dtype: torch.dtype, parts: int
) -> None:
    codes = codes_of(8, images, windows * tokens, parts * heads * size)
    for x in (codes, gradient_of(codes, torch.float32)):
        split = called(triton_kernels.split_heads, x, parts, heads, windows, dtype)
        turned = x.view(images, windows, tokens, parts, heads, size).permute(3, 0, 1, 4, 2, 5)
        assert torch.equal(split, stored(turned.reshape(parts, -1, tokens, size).float(), dtype))


@pytest.mark.parametrize(("images", "windows", "heads", "tokens", "size"), HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_merge_heads_scales_masks_and_turns_back(
    images: int, windows: int, heads: int, tokens: int, size: int, dtype: torch.dtype, bits: int
) -> None:
    codes = codes_of(bits, images, windows * tokens, 3 * heads * size)
    scales = torch.tensor([0.3, 1e-3, 7.1], dtype=torch.float64)
    parts = gradient_of(codes, dtype).view(3, images * windows * heads, tokens, size)
    merged = called(triton_kernels.merge_heads, *parts, codes, scales, heads, bits)
    scaled = parts.float() * scales.float()[:, None, None, None]
    turned = scaled.view(3, images, windows, heads, tokens, size).permute(1, 2, 4, 0, 3, 5).reshape(codes.shape)
    assert merged.dtype == dtype
    assert torch.equal(merged, stored(eager.mask(turned, codes, bits), dtype))
