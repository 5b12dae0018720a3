"""`upsample` is bilinear interpolation times (2 factor)^2, exactly; `argmax` takes the lowest of equals."""

import pytest
import torch

from intvit.arithmetic import argmax, upsample, upsample_float64
from tests.support import big_integers


@pytest.mark.parametrize("factor", [2, 4, 16, 256])
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (3, 4)])
def test_upsample_is_bilinear_interpolation_without_its_division(size: tuple[int, int], factor: int) -> None:
    x = torch.randint(-(2**20), 2**20, (2, 3, *size), generator=torch.Generator().manual_seed(factor))
    # multiples of 1 / (2 factor)^2 below 2^20 are exact in float64, and so is every step of the interpolation
    expected = torch.nn.functional.interpolate(x.double(), scale_factor=factor, mode="bilinear", align_corners=False)
    result = upsample(x, factor)
    assert result.dtype == torch.int64
    assert torch.equal(result.double(), expected * (2 * factor) ** 2)


@pytest.mark.parametrize("factor", [2, 8])
def test_upsample_equals_big_integers_at_the_ends_of_int32(factor: int) -> None:
    generator = torch.Generator().manual_seed(factor)
    x = torch.tensor([-(2**31), 2**31 - 1])[torch.randint(0, 2, (2, 3, 2), generator=generator)]
    assert upsample(x, factor).tolist() == big_integers.upsample(x.numpy().astype(object), factor).tolist()


@pytest.mark.parametrize("factor", [2, 16, 256])
@pytest.mark.parametrize("size", [(1, 1), (5, 2)])
def test_the_float64_form_is_equal_up_to_the_ends_of_int32(size: tuple[int, int], factor: int) -> None:
    reach, generator = 2**31 // (2 * factor) ** 2, torch.Generator().manual_seed(factor)
    x = torch.randint(-reach, reach, (4, 3, *size), generator=generator)
    x[0], x[1] = reach - 1, -reach
    result = upsample_float64(x.to(torch.int32), factor)
    assert result.dtype == torch.int32
    assert torch.equal(result.to(torch.int64), upsample(x, factor))


def test_upsample_of_equal_values_is_equal_values() -> None:
    assert torch.equal(upsample(torch.full((1, 2, 3), -7), 4), torch.full((1, 8, 12), -7 * 64))


def test_argmax_takes_the_lowest_of_equals() -> None:
    x = torch.randint(0, 3, (2, 9, 40), generator=torch.Generator().manual_seed(0))  # ties everywhere
    for axis in range(3):
        rows = x.movedim(axis, -1).flatten(0, -2).tolist()
        assert argmax(x, axis).flatten().tolist() == [row.index(max(row)) for row in rows]
