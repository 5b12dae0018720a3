"""The table of parts of the path amx: every form compiles, also where there is no AMX, and runs every step."""

import pytest

from intvit.runtime.native import runtime as native_runtime
from tests.support.amx_parts import forms, main


@pytest.mark.slow
def test_every_form_has_a_time_for_every_kind_of_step(capsys: pytest.CaptureFixture[str]) -> None:
    here = native_runtime.supported()
    if "avx512" not in here:
        pytest.skip("the path amx needs AVX-512")
    assert main(["--model", "deit_t", "--rounds", "1"]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    times = {kind: [float(time) for time in row] for kind, *row in (row.split() for row in rows)}
    assert list(times) == ["lookup", "copy", "linear", "layernorm", "attention", "all"]
    assert all(len(row) == len(forms("amx" in here)) and min(row) > 0 for row in times.values())
