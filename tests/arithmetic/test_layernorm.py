"""LayerNorm: every method equal to unbounded integers, the float64 form equal to it, gamma = 0 and any beta work."""

import pytest
import torch

from intvit.arithmetic import (
    derive_layernorm,
    derive_normalizer,
    layernorm,
    layernorm_float64,
    normalized,
    normalized_float64,
)
from tests.arithmetic import reference

METHODS = [("exact", False), ("ivit", False), ("ivit", True), ("ibert", False)]


def rows_of(channels: int, bits: int, count: int = 12) -> torch.Tensor:
    """Constant rows, rows at the ends of the range, one value against all others, small and wide random rows."""
    generator = torch.Generator().manual_seed(channels)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    spread = torch.logspace(-1, bits - 2, count, base=2)[:, None]
    x = (torch.randn(count, channels, generator=generator) * spread).round().clamp(low, high).to(torch.int64)
    special = torch.zeros(9, channels, dtype=torch.int64)
    special[1], special[2] = low, high
    special[3, 0], special[4, 0] = 1, -1
    special[5], special[5, 0] = low, high
    special[6], special[6, 0] = high, low
    special[7, ::2], special[7, 1::2] = low, high
    special[8], special[8, 0] = high, high - 1
    return torch.cat((special, x))


def affine(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """gamma with zeros, tiny, negative and large values; beta from 0 to far beyond any output."""
    generator = torch.Generator().manual_seed(channels)
    gamma = torch.randn(channels, generator=generator, dtype=torch.float64)
    beta = torch.randn(channels, generator=generator, dtype=torch.float64)
    beta *= 10 ** torch.randint(-3, 3, (channels,), generator=generator).double()
    gamma[:4] = torch.tensor([0.0, 1e-12, -30.0, 0.0])
    beta[:4] = torch.tensor([0.3, 1e15, -1e300, 1e300], dtype=torch.float64)
    return gamma, beta


def fields(parameters) -> tuple[dict, dict]:
    return reference.fields_of(parameters.normalizer), reference.fields_of(parameters)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "bits"), [(2, 8), (5, 16), (192, 8), (192, 16), (768, 16), (2000, 16)])
def test_layernorm_equals_unbounded_integers_and_float64_equals_it(method, channels, bits):
    name, paper = method
    gamma, beta = affine(max(4, channels))
    x = rows_of(channels, bits, 12 if channels < 500 else 4)
    for bits_out in (4, 8, 16):
        parameters = derive_layernorm(
            name, gamma[:channels], beta[:channels], 2.5 / 2 ** (bits_out - 1), bits, bits_out, paper=paper
        )
        expected = [reference.layernorm(row, *fields(parameters)) for row in x.tolist()]
        assert layernorm(x, parameters).tolist() == expected
        assert layernorm_float64(x.to(torch.int16), parameters).tolist() == expected


@pytest.mark.parametrize("method", METHODS)
def test_channel_shifts_of_an_eight_bit_stream_are_exact(method):
    name, paper = method
    gamma, beta = affine(192)
    shift = torch.arange(192) % 4
    x = rows_of(192, 8)
    parameters = derive_layernorm(name, gamma, beta, 0.02, 8, 8, channel_shift=shift, paper=paper)
    expected = [reference.layernorm(row, *fields(parameters)) for row in x.tolist()]
    assert layernorm(x, parameters).tolist() == expected
    assert layernorm_float64(x.to(torch.int8), parameters).tolist() == expected


@pytest.mark.parametrize("method", METHODS)
def test_widest_rows_of_2_to_the_15_channels_stay_within_64_bits(method):
    name, paper = method
    channels = 2**15
    x = rows_of(channels, 16, 2)
    parameters = derive_layernorm(
        name, torch.ones(channels).double(), torch.zeros(channels).double(), 0.03, 16, 8, paper=paper
    )
    for row in x[:8]:
        expected = reference.layernorm(row.tolist(), *fields(parameters))
        assert layernorm(row[None], parameters)[0].tolist() == expected
        assert layernorm_float64(row[None], parameters)[0].tolist() == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "bits"), [(192, 16), (2**15, 16), (3, 8)])
def test_normalized_value_is_below_2_to_the_31_and_equal_in_float64(method, channels, bits):
    name, paper = method
    normalizer = derive_normalizer(name, channels, bits, paper=paper)
    x = rows_of(channels, bits)
    n = normalized(x, normalizer)
    assert n.abs().max() < 2**31
    assert torch.equal(normalized_float64(x, normalizer).to(torch.int64), n)


@pytest.mark.parametrize("method", METHODS)
def test_float64_form_is_equal_where_product_and_bias_cancel(method):
    name, paper = method
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-30000, 30000, (200, 64), generator=generator)
    xhat = (x - x.double().mean(-1, keepdim=True)) / x.double().std(-1, keepdim=True, correction=0)
    gamma = 10 ** (torch.rand(64, generator=generator, dtype=torch.float64) * 7 - 1)
    # beta cancels gamma times the normalized value of one row a channel
    beta = -gamma * xhat[torch.arange(64), torch.arange(64)]
    for bits in (8, 16):
        parameters = derive_layernorm(name, gamma, beta, 0.01, 16, bits, paper=paper)
        assert torch.equal(layernorm_float64(x, parameters).to(torch.int64), layernorm(x, parameters))


def test_constant_row_gives_beta_and_zero_gamma_gives_beta_everywhere():
    beta = torch.tensor([0.5, -0.25, 0.13, 7.0], dtype=torch.float64)
    expected = torch.floor(beta / 0.02 + 0.5).clamp(-128, 127).to(torch.int64)
    x = torch.tensor([[5, 5, 5, 5], [-128, 127, 0, 3]])
    for name, paper in METHODS:
        ones = derive_layernorm(name, torch.ones(4).double(), beta, 0.02, 8, 8, paper=paper)
        zeros = derive_layernorm(name, torch.zeros(4).double(), beta, 0.02, 8, 8, paper=paper)
        assert torch.equal(layernorm(x, ones)[0], expected)
        assert torch.equal(layernorm(x, zeros), expected.expand(2, 4))


def test_bias_beyond_the_accumulator_saturates_and_the_shift_stays_positive():
    gamma = torch.ones(4).double()
    beta = torch.tensor([1e300, -1e300, 1e14, 0.0], dtype=torch.float64)
    parameters = derive_layernorm("exact", gamma, beta, 1e-3, 16, 8)
    assert (parameters.bias.abs() + (1 << (parameters.shift - 1)) <= 2**52).all()
    assert (parameters.shift >= 1).all()
    assert layernorm(torch.tensor([[9, -5, 100, 7]]), parameters)[0, :3].tolist() == [127, -128, 127]


@pytest.mark.parametrize("name", ["exact", "float"])
def test_exact_method_is_within_a_rounding_step_of_the_real_layernorm(name):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(100, 384, generator=generator) * 2000).round().clamp(-32768, 32767).to(torch.int16)
    gamma = torch.randn(384, generator=generator, dtype=torch.float64)
    beta = torch.randn(384, generator=generator, dtype=torch.float64)
    result = layernorm_float64(x, derive_layernorm(name, gamma, beta, 0.03, 16, 8))
    real = torch.nn.functional.layer_norm(x.double(), (384,), gamma, beta, 0.0) / 0.03
    assert (result - real.clamp(-128, 127)).abs().max() <= 0.502


def test_float_method_has_no_integer_form():
    parameters = derive_layernorm("float", torch.ones(4).double(), torch.zeros(4).double(), 0.1, 8, 8)
    assert not parameters.normalizer.exportable
    with pytest.raises(ValueError, match="no integer form"):
        layernorm(torch.tensor([[1, 2, 3, 4]]), parameters)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "rms"}, "method is 'rms'"),
        ({"gamma": torch.ones(2**15 + 1).double(), "beta": torch.zeros(2**15 + 1).double()}, "channels"),
        ({"bits_in": 32}, "channels of 32 bits"),
        ({"scale_out": 1e-300}, "output scale"),
        ({"scale_out": 1e-20}, "too small for gamma"),
        ({"beta": torch.tensor([0.0, float("nan")]).double()}, "not finite"),
    ],
)
def test_parameters_beyond_the_proof_are_errors_that_name_the_site(change, sentence):
    arguments = {
        "method": "exact",
        "gamma": torch.ones(2).double(),
        "beta": torch.zeros(2).double(),
        "scale_out": 0.1,
        "bits_in": 16,
        "bits_out": 8,
    } | change
    with pytest.raises(ValueError, match=rf"blocks\.3\.norm1.*{sentence}"):
        derive_layernorm(**arguments, site="blocks.3.norm1")
