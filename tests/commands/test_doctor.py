"""`intvit doctor` prints a page whatever is broken, and says how to get what is missing."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from intvit import __version__
from intvit.commands import doctor, main
from intvit.errors import EXTRAS
from intvit.runtime.native import runtime as native


@pytest.fixture(autouse=True)
def quick_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is asked in another test."""
    monkeypatch.setattr(doctor, "ASK_TORCH", "print('AVX2 1 threads')")


def test_the_page_names_version_processor_presets_and_every_extra(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert __version__ in page
    assert sys.executable in page
    assert all(title in page for title in doctor.SECTIONS)
    assert str(Path(__file__).parents[2] / "conf") in page
    assert all(f"  {extra} " in page for extra in EXTRAS.values())
    assert "cannot be told" not in page
    if native.supported():
        assert f"native, chosen         {native.supported()[0]}" in page


def test_a_part_that_fails_is_a_line_and_the_others_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(native, "available", broken)
    monkeypatch.setattr(doctor.subprocess, "run", broken)
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "cannot be told         RuntimeError: first line second line" in page
    assert "complete" in page


def test_a_torch_that_dies_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(doctor, "ASK_TORCH", "import os; os.abort()")
    assert main(["doctor"]) == 0
    assert "torch, CPU             does not import" in capsys.readouterr().out


def test_what_is_missing_comes_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in EXTRAS else find(name))
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "pip install 'intvit[sweep]' brings optuna" in page
    assert "not installed; inference needs none" in page


@pytest.mark.slow
def test_torch_is_asked_for_its_instructions_and_devices() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "intvit.commands", "doctor"], capture_output=True, text=True, check=True
    )
    assert "threads" in done.stdout
    assert "does not import" not in done.stdout
