"""Kernels compile for GPUs that are not there: products on tensor cores, nothing spilled, registers left."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

from intvit.bench import kernels
from intvit.bench.kernels import PRODUCTS, compile_training, wanting
from intvit.quant.triton_kernels.cases import compile_cases
from intvit.quant.triton_kernels.operators import LAUNCHERS
from tests.support.quick import slow_but

CASES = compile_cases()
QUICK = ("attention_logits", "weights")  # the others take a minute together


def test_every_kernel_is_among_the_cases() -> None:
    assert {case.split()[0] for case in CASES} == LAUNCHERS.keys()


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", slow_but(QUICK, CASES))
def test_kernels_spill_nothing_and_multiply_int8_on_tensor_cores(
    name: str, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intvit.quant.triton_kernels.cases.compile_cases", lambda: {name: CASES[name]})
    (figures,) = compile_training((arch,))
    assert wanting(figures) == []
    assert figures.registers <= 255
    assert bool(figures.tensor_cores) == (figures.kernel in PRODUCTS)
    assert figures.tensor_cores.startswith({80: "IMMA", 90: "IGMMA"}[arch] if figures.tensor_cores else "")
    assert kernels.ARCHITECTURES == (80, 90)
