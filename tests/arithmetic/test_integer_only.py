"""The normative functions hold no floating point: checked on their exported graphs, node by node."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from intvit.arithmetic import (
    add,
    derive_layernorm,
    derive_weights,
    encode_pair,
    encode_ratios,
    exponent_table,
    exponential,
    input_parameters,
    integer_matmul,
    integer_sqrt,
    layernorm,
    newton_sqrt,
    quantize_input,
    requantize,
    softmax,
    weighted_mean,
)
from tests.support.families import exponent_of, gelu_of


def ratios(count: int) -> torch.Tensor:
    return torch.linspace(1e-3, 2e-2, count, dtype=torch.float64)


def integers(*shape: int, bits: int = 8, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).to(dtype)


def requantizing():
    m, e = encode_ratios(ratios(6), 8)
    return lambda x: requantize(x, m, e, 8), (integers(4, 6, bits=20, dtype=torch.int32),)


def adding():
    parameters = encode_pair(ratios(6), ratios(1), 16)
    return lambda a, b: add(a, b, *parameters, 16), (
        integers(4, 6, bits=20, dtype=torch.int32),
        integers(4, 6, bits=16, dtype=torch.int16),
    )


def quantizing_an_image():
    parameters = input_parameters((0.5, 0.4, 0.3), (0.2, 0.2, 0.3), 0.02, 8)
    image = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    return lambda x: quantize_input(x, *parameters, 8), (image,)


def roots(function):
    return lambda: (function, (torch.randint(0, 2**40, (5,)),))


def matmul(dtype):
    left = torch.randint(0, 100, (2, 20, 8)).to(dtype)
    return lambda: (integer_matmul, (left, integers(2, 8, 8)))


def softmaxing(family, normalization, **options):
    def case():
        exponent = exponent_of(family, 0.05, 9, 8, **options)
        return lambda x: softmax(x, exponent, 8, normalization), (integers(2, 3, 9),)

    return case


def weighing(family):
    def case():
        exponent = exponent_of(family, 0.05, 9, 8)
        m, e = derive_weights(exponent_table(exponent, 8), 8, 9)
        return lambda x: exponential(x, exponent, m, e, 8), (integers(2, 3, 9),)

    return case


def averaging():
    sums, total = torch.randint(-9000, 9000, (3, 4)), torch.randint(100, 9000, (3, 1))
    return lambda a, b: weighted_mean(a, b, 2**46 + 7, 46, 8), (sums, total)


def activating(family, **options):
    def case():
        return gelu_of(family, 0.05, 0.04, 8, 8, **options), (integers(3, 9),)

    return case


def normalizing(method, paper=False, channel_shift=None):
    def case():
        gamma = torch.ones(9, dtype=torch.float64)
        parameters = derive_layernorm(method, gamma, gamma, 0.03, 8, 8, paper=paper, channel_shift=channel_shift)
        return lambda x: layernorm(x, parameters), (integers(3, 9),)

    return case


CASES = {
    "requantize": requantizing,
    "add": adding,
    "quantize_input": quantizing_an_image,
    "integer_sqrt": roots(integer_sqrt),
    "newton_sqrt": roots(lambda v: newton_sqrt(v, 10)),
    "layernorm ivit paper": normalizing("ivit", paper=True),
    "layernorm channel shift": normalizing("exact", channel_shift=torch.arange(9) % 4),
    "softmax paper": softmaxing("ivit", "floor", paper=True),
    "weighted_mean": averaging,
    "gelu paper": activating("ivit", paper=True),
}
CASES |= {f"matmul {dtype}": matmul(dtype) for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32)}
CASES |= {f"layernorm {method}": normalizing(method) for method in ("exact", "ivit", "ibert")}
CASES |= {
    f"softmax {family} {form}": softmaxing(family, form)
    for family in ("ivit", "ibert", "ppoly", "lut")
    for form in ("rounded", "floor")
}
CASES |= {f"exponential {family}": weighing(family) for family in ("ivit", "ibert", "ppoly", "lut")}
CASES |= {f"gelu {family}": activating(family) for family in ("ivit", "ibert", "ppoly", "lut")}


class Operator(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def floating(value) -> bool:
    return isinstance(value, float) or (isinstance(value, torch.Tensor) and value.is_floating_point())


@pytest.mark.parametrize("case", CASES)
def test_exported_graph_has_no_floating_point_value(case):
    torch.manual_seed(0)
    function, arguments = CASES[case]()
    program = torch.export.export(Operator(function), arguments)
    for node in program.graph.nodes:
        values = tree_leaves((node.meta.get("val"), node.args, dict(node.kwargs)))
        assert not any(floating(value) for value in values), node.format_node()
        assert torch.float64 not in values
        assert torch.float32 not in values
    constants = [*program.constants.values(), *program.state_dict.values()]
    assert not any(floating(value) for value in constants)
    assert torch.equal(program.module()(*arguments), function(*arguments))
