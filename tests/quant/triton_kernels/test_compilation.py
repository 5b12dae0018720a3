"""Kernels compile for GPUs that are not there: products on tensor cores, nothing spilled, registers left."""

import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

from intvit.quant.triton_kernels.compilation import compile_cases, compiled, table
from intvit.quant.triton_kernels.operators import LAUNCHERS

CASES = compile_cases()
PRODUCTS = {name for name in CASES if name.startswith(("attention_logits", "weighted", "linear"))}
QUICK = ("attention_logits", "weights")  # the others take a minute together


def test_every_kernel_is_among_the_cases() -> None:
    assert {case.split()[0] for case in CASES} == LAUNCHERS.keys()


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_kernels_spill_nothing_and_multiply_int8_on_tensor_cores(name: str, arch: int) -> None:
    code = compiled(CASES[name], arch)
    assert code.spills == 0
    assert code.registers <= 255
    assert code.tensor_core.startswith({80: "IMMA", 90: "IGMMA"}[arch] if name in PRODUCTS else "")
    assert bool(code.tensor_core) == (name in PRODUCTS)


def test_the_table_has_a_line_for_each_kernel_and_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intvit.quant.triton_kernels.compilation.compile_cases", lambda: {"weights": CASES["weights"]})
    lines: list[str] = []
    table((80, 90), lines.append)
    assert [line.split()[:2] for line in lines[1:]] == [["weights", "80"], ["weights", "90"]]
