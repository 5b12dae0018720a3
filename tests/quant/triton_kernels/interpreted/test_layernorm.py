"""LayerNorm: integers and magnitudes those of intvit.arithmetic for every method; the gradient torch's, closely."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.quant import triton_kernels
from intvit.quant.kernels import eager
from tests.support.draws import draw
from tests.support.triton_operators import called

METHODS = [("exact", False), ("ivit", False), ("ivit", True), ("ibert", False)]


def codes_of(bits: int, tokens: int, channels: int) -> Tensor:
    """Two images: constant rows, one value against all others, large or so small that its square is shifted away, the
    range's ends, random rows of every width."""
    low, high = arithmetic.limits(bits)
    x = draw(channels, low, high, 2, tokens, channels)
    x[1] >>= torch.arange(tokens)[:, None] % bits
    x[0, 0], x[1, :2] = low, 0
    x[1, 1, min(3, channels - 1)] = min(5, high)
    x[0, -1], x[0, -1, 0] = low, high
    return x.to(arithmetic.container(bits))


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """gamma with zeros, tiny and negative ones; beta up to far beyond any output."""
    generator = torch.Generator().manual_seed(channels)
    gamma, beta = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    gamma[::4], gamma[1::7], beta[::3] = 0.0, 1e-12, 0.0
    beta[-1] = 1e15
    return gamma, beta


@pytest.mark.parametrize(("method", "paper"), METHODS)
@pytest.mark.parametrize(
    ("channels", "bits", "factors"), [(2, 8, False), (5, 16, False), (48, 8, True), (192, 16, False), (520, 4, True)]
)
@pytest.mark.parametrize("bits_out", [2, 8, 16])
def test_layernorm_gives_the_definitions_codes_and_the_largest_real_output(
    method: str, paper: bool, channels: int, bits: int, factors: bool, bits_out: int
) -> None:
    gamma, beta = affine(channels)
    shift = draw(channels, 0, 3, channels) if factors else None
    parameters = arithmetic.derive_layernorm(
        method, gamma, beta, 2.5 / 2 ** (bits_out - 1), bits, bits_out, channel_shift=shift, paper=paper
    )
    normalizer, x = parameters.normalizer, codes_of(bits, 6, channels)
    integers = (normalizer.normalizer_shift, normalizer.newton_steps, normalizer.square_shift)
    affine_step = (parameters.multiplier, parameters.bias, parameters.shift, bits_out)
    codes, magnitudes = called(triton_kernels.layernorm, x, method, *integers, shift, *affine_step, True)
    assert codes.dtype == arithmetic.container(bits_out)
    assert torch.equal(codes.long(), arithmetic.layernorm(x, parameters))
    half = torch.ones_like(parameters.shift) << (parameters.shift - 1)
    product = arithmetic.normalized(x, normalizer).double() * arithmetic.real_multiplier(*affine_step[0:3:2])
    real = product + arithmetic.real_multiplier(parameters.bias + half, parameters.shift) - 0.5
    assert torch.equal(magnitudes, real.abs().amax((1, 2))[:, None])
    assert called(triton_kernels.layernorm, x, method, *integers, shift, *affine_step)[1].shape == (0, 1)


@pytest.mark.parametrize(
    ("channels", "bits", "factors"), [(2, 8, False), (5, 16, False), (48, 8, True), (192, 16, False), (520, 4, True)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layernorm_gradient_is_torchs_and_zero_at_codes_that_saturate(
    channels: int, bits: int, factors: bool, dtype: torch.dtype
) -> None:
    x, weight = codes_of(bits, 37, channels), affine(channels)[0].float()
    shift = draw(channels, 0, 3, channels) if factors else None
    scale, epsilon = torch.tensor(0.03, dtype=torch.float64), 1e-6
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    dx, dweight, dbias = called(triton_kernels.layernorm_gradient, gradient, x, shift, scale, weight, epsilon, bits)
    step = scale if shift is None else scale / (1 << shift).double()
    real, shape = x.double() * step, [channels]
    _, mean, rstd = torch.native_layer_norm(real, shape, None, None, epsilon)
    expected_dx, expected_dweight, expected_dbias = torch.ops.aten.native_layer_norm_backward(
        gradient.double(), real, shape, mean, rstd, weight.double(), weight.double(), [True, True, True]
    )
    expected_dx = eager.mask(expected_dx, x, bits)
    assert dx.dtype == dtype
    assert torch.equal(dx == 0, expected_dx.to(dtype) == 0) or channels == 2  # of two channels all is rounding
    rounding = 2.0**-9 if dtype == torch.bfloat16 else 2.0**-20
    # A row's gradient is a difference of terms as large as gradient / std: rounding is relative to those.
    terms = (gradient.double().abs().amax(-1, keepdim=True) * rstd * weight.abs().max()).clamp(min=1e-3)
    assert float(((dx.double() - expected_dx) / terms).abs().max()) < 8 * rounding
    torch.testing.assert_close(dweight.double(), expected_dweight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dbias.double(), expected_dbias, rtol=1e-4, atol=1e-4)


def test_a_layernorms_gradient_sums_every_row_once_where_programs_take_several_blocks() -> None:
    """More rows than the programs take at once, and a last block that is not full."""
    x, gradient = draw(3, -100, 100, 1, 4099, 2).to(torch.int8), torch.ones(1, 4099, 2)
    x[..., 1] = 0
    scale, weight = torch.tensor(0.1), torch.ones(2)
    _, _, dbias = called(triton_kernels.layernorm_gradient, gradient, x, None, scale, weight, 1e-6, 8)
    assert torch.equal(dbias, torch.full((2,), 4099.0))
