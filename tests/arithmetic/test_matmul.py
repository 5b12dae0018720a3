"""Matrix products are exact for every dtype and extreme, in the integer and in the float form."""

import pytest
import torch

from intvit.arithmetic import exact_length, float_matmul, integer_matmul

RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767), torch.int32: (0, 65535)}


def exact(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.to(torch.int64) @ b.to(torch.int64)


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize(
    "shape", [((3, 5), (5, 2)), ((2, 3, 17, 33), (2, 3, 33, 9)), ((4, 6, 8), (8, 1)), ((1, 1), (1, 1))]
)
def test_integer_matmul_is_exact_for_every_left_dtype(dtype, shape):
    generator = torch.Generator().manual_seed(len(shape[0]))
    low, high = RANGES[dtype]
    a = torch.randint(low, high + 1, shape[0], generator=generator).to(dtype)
    b = torch.randint(-128, 128, shape[1], generator=generator).to(torch.int8)
    result = integer_matmul(a, b)
    assert result.dtype == torch.int32
    assert torch.equal(result.to(torch.int64), exact(a, b))


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("leading", [(), (1,), (2, 3)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (2, 3), (3, 1), (7, 16), (16, 7), (17, 32), (33, 65), (64, 64)])
def test_integer_matmul_is_exact_for_an_inner_axis_of_one(shape, leading, dtype):
    generator = torch.Generator().manual_seed(shape[0])
    low, high = RANGES[dtype]
    a = torch.randint(low, high + 1, (*leading, shape[0], 1), generator=generator).to(dtype)
    b = torch.randint(-128, 128, (*leading, 1, shape[1]), generator=generator).to(torch.int8)
    a[..., 0, 0], b[..., 0, 0] = low, -128
    assert torch.equal(integer_matmul(a, b).to(torch.int64), exact(a, b))
    shared = b.reshape(-1, 1, shape[1])[0]
    assert torch.equal(integer_matmul(a, shared).to(torch.int64), exact(a, shared))


@pytest.mark.parametrize("left", [(torch.int8, -128), (torch.int8, 127), (torch.uint8, 255), (torch.uint8, 0)])
@pytest.mark.parametrize("right", [-128, 127])
def test_integer_matmul_is_exact_at_the_extremes(left, right):
    dtype, value = left
    a = torch.full((2, 20, 4096), value, dtype=dtype)
    b = torch.full((2, 4096, 16), right, dtype=torch.int8)
    assert (integer_matmul(a, b) == value * right * 4096).all()


@pytest.mark.parametrize(("dtype", "value"), [(torch.int32, 65535), (torch.int16, -32768), (torch.int16, 32767)])
def test_sixteen_bit_probabilities_are_exact_up_to_the_accumulator(dtype, value):
    a = torch.full((17, 255), value, dtype=dtype)
    b = torch.full((255, 8), -128, dtype=torch.int8)
    assert (integer_matmul(a, b) == value * -128 * 255).all()


def test_integer_matmul_takes_transposed_and_sliced_operands():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (2, 3, 50, 16), generator=generator).to(torch.int8)[..., ::2]
    b = torch.randint(-128, 128, (2, 3, 40, 8), generator=generator).to(torch.int8).transpose(-1, -2)
    assert torch.equal(integer_matmul(a, b).to(torch.int64), exact(a, b))


def test_integer_matmul_refuses_other_types_and_shapes():
    eight = torch.ones(4, 4, dtype=torch.int8)
    with pytest.raises(TypeError, match="int8 right operand"):
        integer_matmul(eight, eight.to(torch.int16))
    with pytest.raises(TypeError, match="left operand"):
        integer_matmul(eight.float(), eight)
    with pytest.raises(ValueError, match="leading axes"):
        integer_matmul(eight.expand(2, 4, 4), eight.expand(3, 4, 4))


@pytest.mark.parametrize("inner", [1023, 1024, 1025, 4096])
@pytest.mark.parametrize("value", [-128, 127])
def test_float_matmul_is_exact_at_the_extremes_of_any_length(inner, value):
    a = torch.full((3, inner), -128, dtype=torch.int8)
    b = torch.full((inner, 4), value, dtype=torch.int8)
    assert (float_matmul(a, b) == -128 * value * inner).all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.uint8, 255), (torch.int32, 65535)])
def test_float_matmul_of_probabilities_is_exact(dtype, limit):
    generator = torch.Generator().manual_seed(limit)
    a = torch.randint(0, limit + 1, (2, 20, 250), generator=generator).to(dtype)
    b = torch.randint(-128, 128, (2, 250, 16), generator=generator).to(torch.int8)
    assert torch.equal(float_matmul(a, b, a_limit=limit).to(torch.int64), exact(a, b))


def test_exact_length_is_the_float32_bound():
    assert exact_length(128, 128) == 1024
    assert exact_length(255, 128) == 514
