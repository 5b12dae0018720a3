"""Derivations on the device: many sites at once equal one by one, nothing is read on the host, checks can wait.

A tensor on `meta` has no values, so that whatever reads one on the host raises: what runs there runs on a GPU without
waiting for it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from intvit.arithmetic import (
    GELU_FAMILIES,
    LAYERNORM_METHODS,
    SOFTMAX_FAMILIES,
    batched,
    deferred_checks,
    derive_layernorm,
    derive_mean,
    derive_weights,
    encode_pair,
    encode_ratios,
    exponent_table,
    gelu_table,
    input_parameters,
    require,
    weight_table,
)
from intvit.errors import IntVitError
from intvit.quant.config import preset_options

SITES = 64
OURS = [
    *(("softmax", name) for name in SOFTMAX_FAMILIES if SOFTMAX_FAMILIES[name].batchable),
    *(("gelu", name) for name in GELU_FAMILIES if GELU_FAMILIES[name].batchable),
]
FURTHER_OPTIONS = {
    "ivit": [{"paper": True}],
    "ppoly": [
        {"segments": 5, "degree": 1, "coefficient_bits": 24},
        {"segments": 16, "degree": 2, "coefficient_bits": 6},
        {"segments": 6, "degree": 3, "coefficient_bits": 8},
        {"segments": 24, "degree": 4, "coefficient_bits": 16},
    ],
}


@dataclass(frozen=True)
class Case:
    """A derivation with everything that it gives, as a function of its real scales, and how those are drawn."""

    name: str
    derive: Callable[..., Any]
    scales: Callable[[random.Random], tuple[Tensor, ...]]


def real(generator: random.Random, low: float, high: float) -> float:
    return 2.0 ** generator.uniform(low, high)


def column(generator: random.Random, low: float, high: float, *extremes: float) -> Tensor:
    """float64 [SITES]: the extremes first, the others anything between 2^low and 2^high."""
    drawn = [real(generator, low, high) for _ in range(SITES - len(extremes))]
    return torch.tensor([*extremes, *drawn], dtype=torch.float64)


def input_scales(generator: random.Random) -> Tensor:
    """Of a function's input: from end to end of what is proven, and where a fit's reach is a power of two or its end."""
    ends = (2.0**-14, 2.0**10, math.nextafter(2.0**-14, 1), math.nextafter(2.0**10, 1), 2.5, 1.0)
    return column(generator, -14, 10, *ends, *(value / codes for value in (4.5, 8.0, 10.0) for codes in (127, 128, 255)))


def softmax(family: str, options: dict[str, Any], row: int, bits: int, width: int) -> Case:
    def derive(scale: Tensor) -> Any:
        exponent = SOFTMAX_FAMILIES[family](scale, row, bits, **options, site="blocks.3")
        m, e = derive_weights(exponent, bits, width, row)
        return exponent, exponent_table(exponent, bits), m, e, weight_table(exponent, bits, m, e, width)

    return Case(f"softmax {family} {options} {row} {bits} {width}", derive, lambda g: (input_scales(g),))


def gelu(family: str, options: dict[str, Any], bits_in: int, bits_out: int) -> Case:
    def derive(scale_in: Tensor, scale_out: Tensor) -> Any:
        parameters = GELU_FAMILIES[family](scale_in, scale_out, bits_in, bits_out, **options, site="blocks.3")
        return parameters, gelu_table(parameters, bits_in)

    def scales(generator: random.Random) -> tuple[Tensor, ...]:
        scale = input_scales(generator)
        return scale, scale * column(generator, -6, 6)

    return Case(f"gelu {family} {options} {bits_in} {bits_out}", derive, scales)


def functions() -> list[Case]:
    """Every family with the options of its presets and others, at the presets' widths and others."""
    cases = []
    for kind, family in OURS:
        for options in (preset_options(kind, family), *FURTHER_OPTIONS.get(family, [])):
            if kind == "softmax":
                cases += [softmax(family, options, 197, 8, 8), softmax(family, options, 1, 4, 16)]
                cases += [softmax(family, options, 2**15, 6, 12)]
            else:
                cases += [gelu(family, options, 8, 8), gelu(family, options, 4, 16)]
    return cases


def others() -> list[Case]:
    """LayerNorm of every method, and the ratios."""
    cases = []
    for method in LAYERNORM_METHODS:
        for bits, shift in ((16, None), (8, torch.tensor([0, 1, 3, 2, 0]))):

            def layernorm(gamma: Tensor, beta: Tensor, scale: Tensor, method=method, bits=bits, shift=shift) -> Any:
                shift = None if shift is None else shift.to(scale.device)
                return derive_layernorm(method, gamma, beta, scale, bits, 8, channel_shift=shift, site="blocks.3")

            cases.append(Case(f"layernorm {method} {bits}", layernorm, lambda g: (signed(g), signed(g), column(g, -10, 4))))
    cases += [
        Case("ratios", lambda r: encode_ratios(r, 8), lambda g: (signed(g) * 2.0**20,)),
        Case("ratio", lambda r: encode_ratios(r, 16, signed=False), lambda g: (column(g, -60, 29.9, 2.0**-1074),)),
        Case("pair", lambda a, b: encode_pair(a, b, 16), lambda g: (signed(g), signed(g))),
        Case("mean", lambda r: derive_mean(r, 8), lambda g: (column(g, -60, 50.9, math.nextafter(2.0**51, 0)),)),
        Case(
            "input",
            lambda mean, std, scale: input_parameters(mean, std, scale, 8),
            lambda g: (signed(g).abs().clamp(max=1.0), signed(g).abs() + 2.0**-6, column(g, -9, -2)),
        ),
    ]
    return cases


def signed(generator: random.Random) -> Tensor:
    """float64 [SITES, 5] of both signs, some of them 0."""
    numbers = [generator.choice((-1, 1, 1, 0)) * real(generator, -20, 5) for _ in range(SITES * 5)]
    return torch.tensor(numbers, dtype=torch.float64).view(SITES, 5)


ALL = [*functions(), *others()]
every_case = pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])


def leaves(result: Any) -> list[Any]:
    """Tensors, numbers and names of nested tuples and parameter dataclasses."""
    if is_dataclass(result):
        result = tuple(getattr(result, field.name) for field in fields(result))
    return [leaf for part in result for leaf in leaves(part)] if isinstance(result, tuple) else [result]


@every_case
def test_many_sites_at_once_give_what_each_gives_alone(case):
    scales = case.scales(random.Random(case.name))
    together = leaves(batched(case.derive, *scales))
    for index in range(SITES):
        alone = leaves(case.derive(*(scale[index] for scale in scales)))
        assert len(alone) == len(together)
        for one, all_sites in zip(alone, together, strict=True):
            if isinstance(one, Tensor) and isinstance(all_sites, Tensor) and one is not all_sites:
                assert torch.equal(one, all_sites[index]), index
                assert one.dtype == all_sites.dtype
            else:
                assert one == all_sites


@every_case
def test_nothing_is_read_on_the_host(case):
    scales = [scale.to("meta") for scale in case.scales(random.Random(0))]
    alone = case.scales(random.Random(0))
    with deferred_checks() as checks:
        results = [*leaves(case.derive(*(scale[0] for scale in scales))), *leaves(batched(case.derive, *scales))]
    assert {result.device.type for result in results if isinstance(result, Tensor)} == {"meta"}
    assert checks.valid().device.type == "meta"
    shapes = [leaf.shape for leaf in leaves(case.derive(*(s[0] for s in alone))) if isinstance(leaf, Tensor)]
    assert [result.shape for result in results if isinstance(result, Tensor)][: len(shapes)] == shapes
