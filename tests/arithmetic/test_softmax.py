"""Softmax: every family within its bounds, every kind equal to unbounded integers, the table form equal to it."""

import pytest
import torch

from intvit.arithmetic import (
    EXPONENT_KINDS,
    SOFTMAX_FAMILIES,
    exponent_table,
    normalize,
    normalize_float64,
    probability_range,
    softmax,
    softmax_from_table,
)
from tests.arithmetic import reference
from tests.support.families import exponent_of
from tests.support.logits import EXPORTABLE, random_logits

SCALES = [2.0 ** (k / 2) for k in range(-28, 21)]
FORMS = [(8, "rounded"), (16, "rounded"), (4, "rounded"), (8, "floor"), (16, "floor")]


@pytest.mark.parametrize("family", EXPORTABLE)
@pytest.mark.parametrize("row_length", [1, 2, 49, 197, 577, 3137, 2**15 - 1, 2**15])
def test_exponentials_sum_below_2_to_the_31_and_reach_2_to_the_15_at_every_scale_and_width(family, row_length):
    for scale in SCALES:
        for bits in (4, 6, 8):
            table = exponent_table(exponent_of(family, scale, row_length, bits), bits)
            assert table.shape == (2**bits,)
            assert table.min() >= 0
            assert table.max() * row_length < 2**31, (scale, bits)
            assert table[0] >= 2**15, (scale, bits)


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("family", EXPORTABLE)
def test_exponents_equal_unbounded_integers_at_every_distance(family, bits):
    options = [{}, {"paper": True}] if family == "ivit" else [{}]
    for scale in SCALES[::3]:
        for row_length in (1, 197, 2**15):
            for option in options:
                exponent = exponent_of(family, scale, row_length, bits, **option)
                assert EXPONENT_KINDS[exponent.kind] is type(exponent)
                fields = reference.fields_of(exponent)
                expected = [reference.exponential(-d, exponent.kind, fields) for d in range(2**bits)]
                assert exponent_table(exponent, bits).tolist() == expected


@pytest.mark.parametrize("family", EXPORTABLE)
def test_sixteen_bit_logits_have_the_same_bounds_and_definition(family):
    for scale in (2.0**-14, 2.0**-8, 1.0, 2.0**10):
        exponent = exponent_of(family, scale, 197, 16)
        table, fields = exponent_table(exponent, 16), reference.fields_of(exponent)
        assert table.max() * 197 < 2**31
        for d in [0, 1, 2, 17, 255, 256, 4095, 32767, 65534, 65535]:
            assert table[d].item() == reference.exponential(-d, exponent.kind, fields)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", EXPORTABLE)
def test_softmax_equals_unbounded_integers_and_the_table_form_equals_it(family, form):
    bits, normalization = form
    for scale in (2.0**-14, 0.01, 0.07, 0.5, 30.0, 2.0**10):
        logits = random_logits(12, 50)
        exponent = exponent_of(family, scale, 50, 8)
        fields = reference.fields_of(exponent)
        expected = [reference.softmax(row, exponent.kind, fields, bits, normalization) for row in logits.tolist()]
        assert softmax(logits, exponent, bits, normalization).tolist() == expected
        fast = softmax_from_table(logits, exponent_table(exponent, 8), bits, normalization)
        assert fast.tolist() == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("length", "logit_bits"), [(1, 8), (197, 4), (577, 8), (300, 16), (2**15, 8)])
def test_table_form_equals_the_definition_on_long_rows_in_chunks(form, length, logit_bits):
    logits = random_logits(300 if length < 2**15 else 8, length, logit_bits)
    for family in EXPORTABLE:
        exponent = exponent_of(family, 0.05, length, logit_bits)
        expected = softmax(logits, exponent, *form)
        bits, signed, _ = probability_range(*form)
        fast = softmax_from_table(logits, exponent_table(exponent, logit_bits), *form)
        assert torch.equal(fast.to(torch.int64), expected)
        assert expected.min() >= 0
        assert expected.max() < 2 ** (bits - 1 if signed else bits)


@pytest.mark.parametrize("form", FORMS)
def test_normalization_is_exact_at_the_extremes_of_its_sum(form):
    rows = [
        [2**31 - 1],
        [2**31 - 2, 1],
        [2**15],
        [2**15, 2**15 - 1, 0],
        [2**30, 2**30 - 1],
        [65535] * 2**5 + [0],
        [1431655765, 715827882],
    ]
    generator = torch.Generator().manual_seed(0)
    for top in (2**15, 2**20, 2**28):
        rows += (torch.randint(0, top, (20, 7), generator=generator) + 2**15).tolist()
    for row in rows:
        expected = reference.normalize(row, *form)
        assert normalize(torch.tensor(row), *form).tolist() == expected
        assert normalize_float64(torch.tensor(row, dtype=torch.float64), *form).tolist() == expected


def test_reciprocal_is_exact_in_float64_beside_every_kind_of_quotient():
    generator = torch.Generator().manual_seed(0)
    sums = torch.cat((torch.randint(2**15, 2**31, (200_000,), generator=generator), torch.arange(2**15, 2**15 + 5000)))
    divisors = torch.tensor([d for d in range(2**15, 2**17) if (2**46 - 1) % d < 2 or (2**46) % d == 0])
    sums = torch.cat((sums, divisors))
    for numerator in (2**46 - 1, 2**31 - 1):
        exact = torch.div(numerator, sums, rounding_mode="floor")
        assert torch.equal(torch.floor(float(numerator) / sums.double()).to(torch.int64), exact)


def test_range_of_probabilities_is_reported_and_other_forms_are_refused():
    assert probability_range(8, "rounded") == (8, False, 2.0**-8)
    assert probability_range(8, "floor") == (8, True, 2.0**-7)
    for wrong in ((8, "nearest"), (17, "rounded"), (1, "floor")):
        with pytest.raises(ValueError, match=r"probabilities|normalization"):
            probability_range(*wrong)


@pytest.mark.parametrize("family", SOFTMAX_FAMILIES)
def test_scales_and_rows_beyond_the_proof_are_errors_that_name_the_site(family):
    for scale in (2.0**-15, 2.0**11, 0.0, float("nan")):
        with pytest.raises(ValueError, match=r"blocks\.3.*scale"):
            exponent_of(family, scale, 197, 8, site="blocks.3")
    for length in (0, 2**15 + 1):
        with pytest.raises(ValueError, match=r"blocks\.3.*row"):
            exponent_of(family, 0.1, length, 8, site="blocks.3")


@pytest.mark.parametrize(("bits", "largest"), [(8, 2.0**-9 + 1e-4), (16, 2.0**-17 + 2.0**-15)])
def test_table_and_float_families_are_within_a_rounding_step_of_the_real_softmax(bits, largest):
    logits = random_logits(100, 197)
    for scale in (0.01, 0.05, 0.2):
        real = torch.softmax(logits.double() * scale, -1)
        for family in ("lut", "float"):
            exponent = exponent_of(family, scale, 197, 8)
            probabilities = softmax(logits, exponent, bits).double() * 2.0**-bits
            # 1 itself is out of the unsigned range
            assert (probabilities - real.clamp(max=1 - 2.0**-bits)).abs().max() <= largest
        assert not exponent_of("float", scale, 197, 8).exportable


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.1, 0.2])
def test_default_piecewise_softmax_is_close_to_the_table(scale):
    logits = random_logits(200, 197)
    real = torch.softmax(logits.double() * scale, -1)
    errors = {}
    for family in ("lut", "ppoly"):
        p = softmax(logits, exponent_of(family, scale, 197, 8), 8).double() / 256
        errors[family] = (p - real).abs().sum(-1).mean()
    assert errors["ppoly"] < 1.1 * errors["lut"]


@pytest.mark.parametrize("coefficient_bits", [6, 8, 12, 16, 24])
@pytest.mark.parametrize(("segments", "degree"), [(8, 2), (16, 1), (4, 3), (32, 2)])
def test_piecewise_shapes_from_the_configuration_keep_the_bounds(segments, degree, coefficient_bits):
    for scale in (2.0**-14, 0.01, 0.1, 3.0, 2.0**10):
        exponent = exponent_of(
            "ppoly", scale, 197, 8, segments=segments, degree=degree, coefficient_bits=coefficient_bits
        )
        assert exponent.coefficients.shape[1] == degree + 1
        assert exponent.coefficients.shape[0] in (segments, segments + 1)
        assert exponent.coefficients.abs().max() < 2 ** max(16, coefficient_bits)
        assert (exponent.coefficients % 2 ** max(0, 16 - coefficient_bits) == 0).all()
        assert (exponent.bounds.diff() >= 0).all()
        table = exponent_table(exponent, 8)
        assert table[0] >= 2**15
        assert table.max() * 197 < 2**31


def test_ppoly_takes_every_scale_between_the_powers_of_two():
    for index in range(600):
        scale = 2.0 ** (-14 + 24 * index / 599)
        for bits in (4, 8):
            exponent_of("ppoly", scale, 197, bits)
