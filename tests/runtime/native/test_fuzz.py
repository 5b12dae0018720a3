"""Damaged checkpoints and plans never crash the native runtime: fuzz_native.py on a few hundred cases."""

import shutil

import pytest

from tests.support.fuzz_native import run_sanitized


def _fuzz(cases: int, path: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the library with sanitizers")
    output = run_sanitized(cases, path, seed=7)
    assert output.endswith(f"{cases} cases, path {path}: no crash, no difference\n")
    for end in (
        "ran, equal to numpy",
        "plan accepted, ran",
        "refused by native library",
        "refused by program/weights.py",
    ):
        assert end in output, output


def test_a_few_hundred_cases() -> None:
    _fuzz(160, "scalar")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["scalar", "avx2", "avxvnni", "avx512", "amx"])
def test_thousands_of_cases(path: str) -> None:
    from intvit.runtime.native.runtime import supported

    if ("avx512" if path in ("amx", "avxvnni") else path) not in supported():  # stand-ins for their instructions
        pytest.skip(f"the path {path} does not run here")
    _fuzz(3000, path)
