"""Derivations on the device: many sites at once equal one by one, nothing is read on the host, checks can wait.

A tensor on `meta` has no values, so that whatever reads one on the host raises: what runs there runs on a GPU without
waiting for it.
"""

import math
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    """Of a function's input: all that is proven, both ends of it, and where a fit's reach is a power of two or ends."""
    ends = (2.0**-14, 2.0**10, math.nextafter(2.0**-14, 1), math.nextafter(2.0**10, 1), 2.5, 1.0)
    return column(
        generator, -14, 10, *ends, *(value / codes for value in (4.5, 8.0, 10.0) for codes in (127, 128, 255))
    )


def softmax(family: str, options: dict[str, Any], row: int, bits: int, width: int) -> Case:
    def derive(scale: Tensor) -> Any:
        exponent = SOFTMAX_FAMILIES[family](scale, row, bits, **options, site="blocks.3")
        table = exponent_table(exponent, bits)
        m, e = derive_weights(table, width, row)
        return exponent, table, m, e, weight_table(table, m, e, width)

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
        for bits in (8, 16):

            def layernorm(gamma: Tensor, beta: Tensor, scale: Tensor, method: str = method, bits: int = bits) -> Any:
                shift = torch.arange(5, device=scale.device) & 3 if bits == 8 else None
                return derive_layernorm(method, gamma, beta, scale, bits, 8, channel_shift=shift, site="blocks.3")

            cases.append(
                Case(f"layernorm {method} {bits}", layernorm, lambda g: (signed(g), signed(g), column(g, -10, 4)))
            )
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


class NothingFromTheHost(TorchDispatchMode):
    """Fails where an operation copies a tensor to the device or takes one of the host; a number is part of a launch."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        assert not [tensor for tensor in host if tensor.dim()], function
        assert not (host and function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)), function
        return function(*args, **(kwargs or {}))


@every_case
def test_nothing_is_read_on_the_host_and_nothing_copied_from_it(case):
    scales = [scale.to("meta") for scale in case.scales(random.Random(0))]
    alone = case.scales(random.Random(0))
    with deferred_checks():
        batched(case.derive, *scales)  # tables of fits and of erf are copied once
    with deferred_checks() as checks, NothingFromTheHost():
        results = [*leaves(case.derive(*(scale[0] for scale in scales))), *leaves(batched(case.derive, *scales))]
    assert {result.device.type for result in results if isinstance(result, Tensor)} == {"meta"}
    assert checks.valid().device.type == "meta"
    shapes = [leaf.shape for leaf in leaves(case.derive(*(s[0] for s in alone))) if isinstance(leaf, Tensor)]
    assert [result.shape for result in results if isinstance(result, Tensor)][: len(shapes)] == shapes


# ---------------------------------------------------------------- checks

NO_SCALE = [0.0, math.inf, math.nan, -0.1, 2.0**-15, 2.0**11, 1e-320, 1e308]


@dataclass(frozen=True)
class Refused:
    """A derivation, arguments that it takes, others that it refuses, and what the error says."""

    name: str
    derive: Callable[..., Any]
    valid: tuple[Any, ...]
    invalid: tuple[Any, ...]
    message: str


def refusals() -> list[Refused]:
    cases = []
    for kind, family in OURS:
        options = preset_options(kind, family)
        for bad in NO_SCALE:
            case = softmax(family, options, 197, 8, 8) if kind == "softmax" else gelu(family, options, 8, 8)
            others = (0.1,) if kind == "gelu" else ()
            cases.append(
                Refused(f"{case.name} {bad}", case.derive, (0.1, *others), (bad, *others), r"blocks\.3: input scale")
            )
        for bad in NO_SCALE[:4] if kind == "gelu" else ():
            cases.append(
                Refused(f"{case.name} to {bad}", case.derive, (0.1, 0.1), (0.1, bad), r"blocks\.3: output scale")
            )
    for bad in (0.0, math.inf, math.nan, -1.0, 2.0**51):
        cases.append(Refused(f"mean {bad}", lambda r: derive_mean(r, 8), (0.5,), (bad,), "ratio of scales"))
    for bad in (math.inf, math.nan, 2.0**30, -(2.0**30)):
        cases.append(Refused(f"ratio {bad}", lambda r: encode_ratios(r, 8), (0.5,), (bad,), "ratio of scales"))
    weights = torch.ones(5).double()
    for bad in (0.0, math.inf, math.nan, -1.0, 1e-30):
        layernorm = partial(derive_layernorm, "exact", weights, weights, bits_in=16, bits_out=8, site="blocks.3")
        cases.append(Refused(f"layernorm {bad}", layernorm, (0.1,), (bad,), r"blocks\.3: .*output scale"))
    image = partial(input_parameters, (0.5,), (0.5,), bits=8)
    cases += [Refused(f"input {bad}", image, (0.1,), (bad,), "ratio of scales") for bad in (0.0, math.nan, 1e-300)]
    return cases


REFUSALS = refusals()


@pytest.mark.parametrize("case", REFUSALS, ids=[case.name for case in REFUSALS])
def test_what_has_no_integers_is_refused_at_once_or_when_the_step_asks(case):
    good, bad = (torch.tensor([arguments], dtype=torch.float64) for arguments in (case.valid, case.invalid))
    for arguments in (case.invalid, bad[0]):
        with pytest.raises(IntVitError, match=case.message) as raised:
            case.derive(*arguments)
        assert "\n" not in str(raised.value)
    with deferred_checks() as checks:
        case.derive(*bad[0])
    assert not checks.valid()
    with deferred_checks() as checks:
        case.derive(*good[0])
    assert checks.valid()


@pytest.mark.parametrize("case", REFUSALS, ids=[case.name for case in REFUSALS])
def test_one_refused_site_leaves_the_others_their_integers_and_says_what_is_wrong(case):
    rows = [case.valid, case.invalid, case.valid]
    scales = torch.tensor(rows, dtype=torch.float64).unbind(1)
    with deferred_checks() as checks:
        together = leaves(batched(case.derive, *scales))
    assert not checks.valid()
    for one, all_sites in zip(
        leaves(case.derive(*torch.tensor(case.valid, dtype=torch.float64))), together, strict=True
    ):
        if isinstance(one, Tensor) and one is not all_sites:
            assert torch.equal(one, all_sites[0])
            assert torch.equal(one, all_sites[2])
    with pytest.raises(IntVitError, match=case.message):
        batched(case.derive, *scales)


def test_conditions_are_kept_by_block_and_thread_and_read_at_once_outside():
    yes, no = torch.tensor(True), torch.tensor([True, False])
    with deferred_checks() as outer:
        require(yes, lambda: "outer")
        with deferred_checks() as inner:
            require(no, lambda: "inner")
        thread = threading.Thread(target=lambda: raised.append(_raised(no)))
        raised: list[str] = []
        thread.start()
        thread.join()
    assert outer.valid()
    assert not inner.valid()
    assert raised == ["at once"] == [_raised(no)]
    require(yes, lambda: "not raised")
    with deferred_checks() as none:
        pass
    assert none.valid()


def _raised(condition: Tensor) -> str:
    with pytest.raises(IntVitError) as raised:
        require(condition, lambda: "at once")
    return str(raised.value)


def test_asking_takes_two_operations_however_many_conditions_there_are():
    with deferred_checks() as checks:
        for count in (1, 5, 64):
            require(torch.ones(count, 2, dtype=torch.bool), lambda: "")
            require(torch.ones((), dtype=torch.bool), lambda: "")
    with torch.profiler.profile() as profile:
        checks.valid()
    assert sum(event.count for event in profile.key_averages() if event.key in ("aten::cat", "aten::all")) == 2


# ---------------------------------------------------------------- functions of one's own


def test_a_function_of_ones_own_sees_pythons_numbers_on_the_cpu_and_is_not_batchable(tmp_path, monkeypatch):
    (tmp_path / "numbers_of_mine.py").write_text(
        "import math\n"
        "seen = []\n"
        "def double(codes, scale, output_scale):\n"
        "    seen.append((codes.device.type, type(scale), type(output_scale), scale))\n"
        "    return codes * math.floor(2 * scale / output_scale)\n"
        "def falling(distances, scale, largest):\n"
        "    seen.append((distances.device.type, type(scale), type(largest), scale))\n"
        "    return (largest - distances * (largest >> 8)).clamp(min=0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gelu, softmax = GELU_FAMILIES["numbers_of_mine:double"], SOFTMAX_FAMILIES["numbers_of_mine:falling"]
    monkeypatch.delitem(GELU_FAMILIES._families, gelu.name)
    monkeypatch.delitem(SOFTMAX_FAMILIES._families, softmax.name)
    scale = torch.tensor(0.1, dtype=torch.float64)
    assert not gelu.batchable
    assert torch.equal(gelu(scale, scale, 8, 8).table, gelu(0.1, 0.1, 8, 8).table)
    assert torch.equal(softmax(scale, 197, 8).table, softmax(0.1, 197, 8).table)
    with deferred_checks() as checks:
        gelu(scale * math.nan, scale, 8, 8)
    assert not checks.valid()
    seen = sys.modules["numbers_of_mine"].seen
    assert {kinds[:2] for kinds in seen} == {("cpu", float)}
    assert {kinds[3] for kinds in seen} == {0.1, 2.0**-14}  # a scale that is refused is one that it can be called with
