"""GELU: every kind equal to unbounded integers and to its table, at every scale and width."""

import pytest
import torch

from intvit.arithmetic import GELU_FAMILIES, GELU_KINDS, ShiftGelu, apply_gelu_table, gelu_table
from tests.arithmetic import reference
from tests.support.families import gelu_of

EXPORTABLE = ["ivit", "ibert", "ppoly", "lut"]
SCALES = [2.0 ** (k / 2) for k in range(-28, 21)]


def derived(family: str, bits_in: int, bits_out: int, scales=SCALES):
    options = [{}, {"paper": True}] if family == "ivit" else [{}]
    for scale in scales:
        for ratio in (0.1, 1.0, 1.7):
            for option in options:
                yield gelu_of(family, scale, scale * ratio, bits_in, bits_out, **option)


def every_maximum(bits: int) -> list[list[int]]:
    """One row for every row maximum, which holds all inputs up to it."""
    half = 2 ** (bits - 1)
    return [list(range(-half, top + 1)) for top in range(-half, half)]


@pytest.mark.parametrize("bits_in", range(2, 9))
@pytest.mark.parametrize("family", EXPORTABLE)
def test_gelu_equals_unbounded_integers_on_every_input_at_every_scale(family, bits_in):
    half = 2 ** (bits_in - 1)
    for gelu in derived(family, bits_in, 8, SCALES if bits_in == 8 else SCALES[::6]):
        assert GELU_KINDS[gelu.kind] is type(gelu)
        fields = reference.fields_of(gelu)
        rows = [list(range(-half, half)), list(range(-half, 1)), [-half], [half - 1, 0, 1, -1, -half]]
        for row in rows:
            assert gelu(torch.tensor(row)).tolist() == reference.gelu(row, gelu.kind, fields)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("bits_in", [4, 8])
@pytest.mark.parametrize("scale", [2.0**-14, 0.004, 0.03, 0.08, 1.0, 2.0**10])
def test_shift_gelu_equals_unbounded_integers_for_every_input_and_row_maximum(scale, bits_in, paper):
    gelu = gelu_of("ivit", scale, scale, bits_in, 8, paper=paper)
    fields = reference.fields_of(gelu)
    step = 8 if bits_in == 8 else 1
    for row in every_maximum(bits_in)[::step]:
        assert gelu(torch.tensor(row)).tolist() == reference.gelu(row, "shift", fields)


@pytest.mark.parametrize("reciprocal_bits", [31, 39, 46])
@pytest.mark.parametrize("limit", [0, 1, 50, 126, 127])
@pytest.mark.parametrize(("x0", "n"), [(-1, 29), (-(2**14), 15), (-24, 25), (-7, 0)])
def test_shift_gelu_and_its_table_equal_unbounded_integers_at_the_extremes_of_its_attributes(
    x0, n, limit, reciprocal_bits
):
    for fraction_bits, sigmoid_bits in ((0, 1), (15, 16), (2, 31)):
        multiplier = (1 << min(31, 62 - 7 - sigmoid_bits)) - 1
        gelu = ShiftGelu(x0, n, fraction_bits, limit, reciprocal_bits, sigmoid_bits, multiplier, 38, 16)
        fields, table = reference.fields_of(gelu), gelu_table(gelu, 8)
        for row in (list(range(-128, 128)), list(range(-128, 60)), [-128, limit, -1], [-128, -127], [127], [0]):
            expected = reference.gelu(row, "shift", fields)
            assert gelu(torch.tensor(row)).tolist() == expected
            assert apply_gelu_table(torch.tensor(row, dtype=torch.int8), table).tolist() == expected


@pytest.mark.parametrize("bits_in", range(2, 9))
def test_shift_gelu_has_the_published_parameters_on_request_and_a_limit_within_the_width_otherwise(bits_in):
    for scale in SCALES:
        published = gelu_of("ivit", scale, scale, bits_in, 8, paper=True)
        assert (published.limit, published.reciprocal_bits) == (2 ** (bits_in - 1) - 1, 31)
        assert (published.fraction_bits, published.sigmoid_bits) == (0, 7)
        assert published.n <= 23
        gelu = gelu_of("ivit", scale, scale, bits_in, 8)
        assert 1 <= gelu.limit <= published.limit
        assert (gelu.reciprocal_bits, gelu.sigmoid_bits) == (46, 16)
        assert 2**29 <= -gelu.x0 << gelu.n + 1 <= 2**31 - 2


@pytest.mark.parametrize("bits_out", [2, 4, 8, 16])
@pytest.mark.parametrize("bits_in", [2, 4, 6, 8])
@pytest.mark.parametrize("family", [*EXPORTABLE, "float"])
def test_table_equals_the_function_for_every_input_and_row_maximum(family, bits_in, bits_out):
    half = 2 ** (bits_in - 1)
    for gelu in derived(family, bits_in, bits_out, SCALES[5::14]):
        table = gelu_table(gelu, bits_in)
        rows = torch.full((2 * half, 2 * half), -half)
        for i, row in enumerate(every_maximum(bits_in)):
            rows[i, : len(row)] = torch.tensor(row)
        fast = apply_gelu_table(rows.to(torch.int8), table)
        assert torch.equal(fast.to(torch.int64), gelu(rows))
        assert fast.dtype == (torch.int8 if bits_out <= 8 else torch.int16)
        expected = (half, 2 * half) if isinstance(gelu, ShiftGelu) else (2 * half,)
        assert table.shape == expected


@pytest.mark.parametrize("family", ["ivit", "ibert", "ppoly"])  # tables hold saturated outputs and need no ratio
def test_output_scale_too_small_to_encode_is_an_error_that_names_the_site(family):
    with pytest.raises(ValueError, match=r"blocks\.3.*output scale is too small"):
        gelu_of(family, 1.0, 1e-300, 8, 8, site="blocks.3")


@pytest.mark.parametrize("family", GELU_FAMILIES)
def test_scales_and_widths_beyond_the_proof_are_errors_that_name_the_site(family):
    for scale, bits in ((2.0**-15, 8), (2.0**11, 8), (0.1, 9), (0.1, 1)):
        with pytest.raises(ValueError, match=r"blocks\.3"):
            gelu_of(family, scale, 0.1, bits, 8, site="blocks.3")


@pytest.mark.parametrize("scale", [2.0**-14, 0.003, 0.02, 0.05, 0.1, 1.0, 2.0**10])
def test_tables_are_the_nearest_integers_and_the_default_piecewise_gelu_is_close_to_them(scale):
    x = torch.arange(-128, 128)
    real = torch.nn.functional.gelu(x.double() * scale)
    scale_out = float(real.abs().max()) / 127
    error = {
        family: (gelu_of(family, scale, scale_out, 8, 8)(x) - real / scale_out).abs().max()
        for family in ("lut", "float", "ppoly")
    }
    assert error["lut"] <= 0.5
    assert error["float"] <= 0.5
    assert error["ppoly"] <= 0.55


def shift_gelu_error(reach: float) -> torch.Tensor:
    """Errors in steps of the int8 output, of every row maximum and every input up to it; the input 127 is `reach`."""
    scale, x = reach / 127, torch.arange(-128, 128)
    real = torch.nn.functional.gelu(x.double() * scale)
    scale_out = float(real.abs().max()) / 127
    table = gelu_table(gelu_of("ivit", scale, scale_out, 8, 8), 8)
    return (table - real / scale_out).abs()[x <= torch.arange(128)[:, None]]


@pytest.mark.parametrize("reach", [3, 6, 10, 14])
def test_shift_gelu_is_within_two_int8_steps_for_every_input_and_row_maximum(reach):
    error = shift_gelu_error(reach)
    assert error.max() < 2
    assert error.mean() < 0.5


@pytest.mark.parametrize("scale", SCALES)
def test_shift_gelu_is_close_to_gelu_at_every_scale(scale):
    # inputs that span less than one halving see the straight line that stands for 2^r: 1/2 steep where 2^r is ln 2
    error = shift_gelu_error(127 * scale)
    assert error.max() < (2 if 127 * scale >= 3 else 5)
    assert error.mean() < 0.8


@pytest.mark.parametrize("coefficient_bits", [6, 8, 16, 24])
@pytest.mark.parametrize(("segments", "degree"), [(4, 1), (8, 2), (6, 3), (1, 4)])
def test_piecewise_coefficients_fit_their_bits_at_every_scale(segments, degree, coefficient_bits):
    for scale in SCALES[::4]:
        gelu = gelu_of("ppoly", scale, scale, 8, 8, segments=segments, degree=degree, coefficient_bits=coefficient_bits)
        assert gelu.coefficients.abs().max() < 2 ** (coefficient_bits - 1)
        assert gelu.coefficients.shape[1] == degree + 1
        row = list(range(-128, 128))
        assert gelu(torch.tensor(row)).tolist() == reference.gelu(row, gelu.kind, reference.fields_of(gelu))
