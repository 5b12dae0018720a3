"""The check of a GPU, where there is none: what a CPU can do is equal, the rest says what it needs, and it can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intvit.bench.gpu import equality, kernels
from intvit.bench.gpu.parts import PARTS
from intvit.bench.gpu.report import FAILED, LEFT_OUT, PASSED, UNFINISHED, NotHere, Place, Report, write_table
from intvit.commands import main
from intvit.quant.kernels.eager import EAGER
from tests.support import triton_interpreter

SCRIPT = Path(__file__).parents[2] / "launch" / "gpu_check.sh"
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def report_of(folder: Path, part: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return values


@pytest.mark.slow  # every part at its size; the next test runs one of them
@WITHOUT_GPU
def test_the_parts_that_a_cpu_can_do_are_equal_there(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="the kernels are Triton's")
    arguments = [sys.executable, "-m", "intvit.commands", "bench", "gpu", "--out", str(tmp_path)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    reports = {part: report_of(tmp_path, part) for part in PARTS}
    assert reports.pop("inference")["reason"] == "needs a GPU"
    for report in reports.values():
        assert report["status"] == PASSED
        assert report["rows"]
        assert all(row.get("equal", True) for row in report["rows"])
    assert (tmp_path / "table.md").read_text() == run.stdout


@WITHOUT_GPU
def test_the_script_runs_the_parts_that_it_is_told_and_writes_their_reports(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", SCRIPT, str(tmp_path / "out"), "model", "inference", "nonsense"],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1  # there is no part of the last name
    assert report_of(tmp_path / "out", "model")["status"] == PASSED
    assert report_of(tmp_path / "out", "inference")["status"] == LEFT_OUT
    assert "no part of that name" in (tmp_path / "out" / "nonsense.log").read_text()
    assert "| **model** | | passed" in run.stdout


def test_one_wrong_integer_of_the_model_fails_its_part_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = equality.trace

    def wrong(*arguments: Any) -> dict[str, np.ndarray]:
        values = trace(*arguments)
        values["head.scores"].flat[0] += 1
        return values

    monkeypatch.setattr(equality, "trace", wrong)
    monkeypatch.setattr(equality, "QUANT", ("lut8",))
    monkeypatch.setattr(equality, "MODELS", ("deit_t",))
    monkeypatch.setattr("intvit.bench.gpu.parts.place", Place.reduced)
    assert main(["bench", "gpu", "model", "--out", str(tmp_path)]) == 1
    assert report_of(tmp_path, "model")["rows"] == [{"case": "deit_t lut8", "equal": False, "differs": ["head.scores"]}]
    assert "DIFFERS: head.scores" in capsys.readouterr().out


def kernel_that_does_not_mask(folder: str) -> None:
    report = Report("kernels", Path(folder), Place(torch.device(triton_interpreter.DEVICE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "cases", lambda full: kernels.pointwise_cases(12, 5, (torch.float32,)))
        patch.setattr(kernels, "EAGER", EAGER._replace(mask=lambda gradient, codes, bits: gradient))
        assert report.run(kernels.kernels) == FAILED
    rows = {row["case"]: row["equal"] for row in report.rows}
    assert [case for case, equal in rows.items() if not equal] == [
        "mask 2 bits",
        "mask 8 bits",
        "mask 16 bits",
        "every operator is called",
    ]


def test_a_kernel_that_differs_or_is_not_called_fails_its_part(tmp_path: Path) -> None:
    triton_interpreter.run(kernel_that_does_not_mask, {"folder": str(tmp_path)})


def test_what_a_part_raises_is_its_failure_and_rows_before_it_stay(tmp_path: Path) -> None:
    def raises(report: Report) -> None:
        report.add("figures", ms=1.5)
        assert report_of(tmp_path, "part")["status"] == UNFINISHED
        raise ValueError("no\nsuch thing")

    def needs(report: Report) -> None:
        raise NotHere("needs two GPUs")

    assert Report("part", tmp_path, Place.reduced()).run(raises) == FAILED
    assert Report("other", tmp_path, Place.reduced()).run(needs) == LEFT_OUT
    table = write_table(tmp_path, ["part", "other", "absent"])
    assert "failed: ValueError: no such thing" in table
    assert "| part | figures | ms 1.5 |" in table
    assert "left out: needs two GPUs" in table
