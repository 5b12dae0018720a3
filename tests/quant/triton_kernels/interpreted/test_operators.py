"""Every operator obeys torch's rules for operators, and takes tensors of any layout."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch

from intvit.quant import triton_kernels
from intvit.quant.triton_kernels.operators import LAUNCHERS
from tests.support.draws import draw
from tests.support.triton_interpreter import DEVICE


def integers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return draw(1, 0, 5, *shape).to(dtype)


def arguments() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Small ones of every operator: one image, three tokens, two heads of two."""
    i8, i16, i32 = torch.int8, torch.int16, torch.int32
    x, qkv, logits = integers(i8, 1, 3, 4), integers(i8, 1, 3, 12), integers(i8, 1, 1, 2, 3, 3)
    acc, stream, gradient = integers(i32, 1, 3, 4), integers(i16, 1, 3, 4), torch.ones(1, 3, 4)
    m, e, one = torch.tensor([2**30]), torch.tensor([33]), torch.tensor([1.0])
    excluded = torch.eye(3, dtype=torch.bool)[None, None]
    weights = integers(torch.uint8, 1, 1, 2, 3, 3) + 1
    total = weights.sum(-1, keepdim=True, dtype=i32)
    yield "requantize", (acc, None, m, e, 8, 2, True)
    yield "add", (acc, integers(i32, 4), stream, m, m, e, 16, True)
    affine = (m.expand(4), e.expand(4), e.expand(4))
    yield "layernorm", (stream, "exact", 12, 0, 0, None, *affine, 8, True)
    yield "layernorm_gradient", (gradient, stream, None, one, torch.ones(4), 1e-6, 16)
    yield "attention_logits", (qkv, 2, 1, m, e, 8, integers(i16, 2, 3, 3), m, excluded, True)
    yield "weighted_mean", (weights, qkv, total, m, e, 8, True)
    yield "weighted_requantize", (weights, qkv, m, e, 8, False)
    yield "weights", (logits, integers(torch.uint8, 256), excluded)
    yield "probabilities", (logits, torch.ones(256, dtype=torch.float64), 8, "rounded", None)
    yield "softmax_gradient", (torch.ones(1, 1, 2, 3, 3), logits, one, 8, excluded)
    yield "gelu", (x, integers(i8, 256))
    yield "mask", (gradient, x, 8)
    yield "gelu_gradient", (gradient, x, torch.ones(256))
    yield "dequantize", (x[0], torch.ones(3), torch.bfloat16)
    yield "split_heads", (qkv, 3, 2, 1, torch.float32)
    heads = torch.ones(2, 3, 2)
    yield "merge_heads", (heads, heads, heads, qkv, torch.ones(3), 2, 8)
    yield "linear", (x[0], x[0], integers(i32, 3))


ARGUMENTS = dict(arguments())


def test_every_operator_is_among_those_that_are_checked() -> None:
    assert sorted(ARGUMENTS) == sorted(LAUNCHERS) == sorted(triton_kernels.__all__)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operators_change_no_argument_and_their_fake_forms_are_right(name: str) -> None:
    """Their schema is kept, and compiled by torch.compile they give what they give without."""
    on_device = (a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in ARGUMENTS[name])
    torch.library.opcheck(getattr(triton_kernels, name), tuple(on_device))


def test_operands_that_are_no_whole_tensors_are_read_as_what_they_are() -> None:
    acc = draw(3, -(2**31), 2**31 - 1, 2, 8, 5).to(torch.int32).to(DEVICE)
    m, e = torch.tensor([0, 2**30], device=DEVICE), torch.tensor([0, 40], device=DEVICE)
    turned = acc.transpose(1, 2)[:, 1:]
    for operand in (turned, turned[:1].expand(3, -1, -1)):
        codes, magnitudes = triton_kernels.requantize(operand, None, m[1:], e[1:], 8, 1, True)
        whole, same = triton_kernels.requantize(operand.contiguous(), None, m[1:].clone(), e[1:].clone(), 8, 1, True)
        assert torch.equal(codes, whole)
        assert torch.equal(magnitudes, same)
