"""The functions that kernels share, against Python's integers."""

import math

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch
import triton
import triton.language as tl

from intvit.arithmetic import integer_sqrt
from intvit.runtime.cuda.kernels import integers
from tests.support.draws import draw
from tests.support.triton_interpreter import DEVICE

COUNT = 1024


@triton.jit
def _kernel(a, b, multiplier_a, multiplier_b, shift, out, FUNCTION: tl.constexpr, COUNT: tl.constexpr):
    place = tl.arange(0, COUNT)
    x, y, e = tl.load(a + place), tl.load(b + place), tl.load(shift + place)
    m, n = tl.load(multiplier_a + place), tl.load(multiplier_b + place)
    if FUNCTION == "requantize":
        result = integers.requantize(x, m, e)
    if FUNCTION == "requantize_high":
        result = integers.requantize_high(x, m, e).to(tl.int64)
    if FUNCTION == "add":
        result = integers.add(x, y, m, n, e)
    if FUNCTION == "add_high":
        result = integers.add_high(x, y, m, n, e).to(tl.int64)
    if FUNCTION == "floor_quotient":
        result = integers.floor_quotient(x, y)
    if FUNCTION == "quotient":
        result = integers.quotient(x, y)
    if FUNCTION == "integer_root":
        result = integers.integer_root(x)
    if FUNCTION == "clamp":
        result = integers.clamp(x, -128, 127).to(tl.int64)
    tl.store(out + place, result)


@triton.jit
def _look_up(table, index, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    place = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    entries = tl.load(table + tl.arange(0, 256))
    tl.store(out + place, integers.look_up(entries, tl.load(index + place), ROWS, COLUMNS))


def called(function: str, a: torch.Tensor, b: int | torch.Tensor = 0, m=0, n=0, e=1) -> list[int]:
    """The function's results, one for each entry; what it does not take is 0."""
    full = [torch.as_tensor(value).broadcast_to((COUNT,)).contiguous().to(DEVICE) for value in (a, b, m, n, e)]
    out = torch.empty(COUNT, dtype=torch.int64, device=DEVICE)
    _kernel[(1,)](*full, out, function, COUNT)
    return out.tolist()


def int32(seed: int, low: int, high: int) -> torch.Tensor:
    return draw(seed, low, high, COUNT).to(torch.int32)


def rounded(value: int, shift: int) -> int:
    return (value + (1 << (shift - 1))) >> shift


@pytest.mark.parametrize("seed", range(3))
def test_requantize_is_the_definition_for_every_accumulator_and_shift(seed: int) -> None:
    acc, m, e = int32(seed, -(2**31), 2**31 - 1), int32(seed + 9, -(2**31) + 1, 2**31 - 1), int32(seed + 19, 1, 53)
    exact = [rounded(*pair) for pair in zip((acc.long() * m.long()).tolist(), e.tolist(), strict=True)]
    assert called("requantize", acc, m=m, e=e) == exact


@pytest.mark.parametrize("seed", range(3))
def test_requantize_by_the_high_word_is_the_definition_from_shift_33_on(seed: int) -> None:
    acc, m, e = int32(seed, -(2**31), 2**31 - 1), int32(seed + 9, -(2**31) + 1, 2**31 - 1), int32(seed + 19, 33, 62)
    exact = [rounded(*pair) for pair in zip((acc.long() * m.long()).tolist(), e.tolist(), strict=True)]
    assert called("requantize_high", acc, m=m, e=e) == exact


@pytest.mark.parametrize("function", ["add", "add_high"])
@pytest.mark.parametrize("seed", range(3))
def test_add_is_the_definition_for_every_accumulator_and_stream(seed: int, function: str) -> None:
    a, b = int32(seed, -(2**31), 2**31 - 1), draw(seed + 1, -(2**15), 2**15 - 1, COUNT).to(torch.int16)
    m, n = (int32(seed + 2 + k, -(2**31) + 1, 2**31 - 1) for k in (0, 1))
    e = int32(seed + 5, 33 if function == "add_high" else 1, 51)
    sums = (a.long() * m.long() + b.long() * n.long()).tolist()
    exact = [rounded(*pair) for pair in zip(sums, e.tolist(), strict=True)]
    assert called(function, a, b, m, n, e) == exact


def test_quotient_is_exact_beside_multiples() -> None:
    divisor = draw(1, 1, 2**31 - 1, COUNT) >> torch.arange(COUNT) % 31
    divisor = divisor.clamp(min=1)
    whole = (2**53 - 1) // divisor
    dividend = (whole * divisor - torch.arange(COUNT) % 3).clamp(min=0)
    exact = [a // b for a, b in zip(dividend.tolist(), divisor.tolist(), strict=True)]
    assert called("quotient", dividend, divisor) == exact


def test_floor_quotient_rounds_down_on_both_sides_of_zero() -> None:
    dividend, divisor = draw(6, -(2**40), 2**40, COUNT), draw(7, 1, 2**20, COUNT)
    dividend[::3] = dividend[::3] // divisor[::3] * divisor[::3]
    exact = [a // b for a, b in zip(dividend.tolist(), divisor.tolist(), strict=True)]
    assert called("floor_quotient", dividend, divisor) == exact


def test_integer_root_is_exact_beside_squares_and_everywhere_below_2_62() -> None:
    root = draw(2, 0, 2**31 - 1, COUNT)
    squares = (root * root + torch.arange(COUNT) % 3 - 1).clamp(0, 2**62 - 1)
    anything = draw(3, 0, 2**62 - 1, COUNT)
    for x in (squares, anything):
        assert called("integer_root", x) == [math.isqrt(v) for v in x.tolist()] == integer_sqrt(x).tolist()


def test_clamp_keeps_what_fits_and_ends_the_rest() -> None:
    x = draw(4, -(2**62), 2**62, COUNT) >> torch.arange(COUNT) % 62
    assert called("clamp", x) == x.clamp(-128, 127).tolist()


def test_look_up_takes_every_entry_of_a_table_by_its_index() -> None:
    table, index = draw(5, -128, 127, 256).to(torch.int8), torch.arange(1024, dtype=torch.int32).flip(0) % 256
    out = torch.empty(32, 32, dtype=torch.int8, device=DEVICE)
    _look_up[(1,)](table.to(DEVICE), index.to(DEVICE), out, 32, 32)
    assert torch.equal(out.cpu().view(-1), table[index.long()])
