"""`intvit bench train`, `data` and `runtime`, small: what they write, and what does not depend on a clock."""

import json
import os
from pathlib import Path

import pytest
import torch

from intvit.bench.runtime import spread, step_macs, verdict
from intvit.calibration import calibrate
from intvit.commands import bench_runtime, main
from intvit.export.record import record
from intvit.models.presets import random_model
from intvit.program.cost import macs
from intvit.runtime.native.lowering import lower


def figures(tmp_path: Path, command: str) -> dict:
    file = tmp_path / "figures.json"
    main(["bench", *command.split(), "--json", str(file)])
    return json.loads(file.read_text())


def test_training_on_integers_saves_less_than_half_of_floats_bytes(tmp_path: Path) -> None:
    command = "train --batch 2 --threads 1 --steps 1 --quant ivit8 --eager-only"
    rows = {row["name"]: row for row in figures(tmp_path, command)["rows"]}
    assert list(rows) == ["fp32", "ivit8 eager"]
    for row in rows.values():
        assert min(row["wall_ms"], row["cpu_ms"], row["peak_mib"]) > 0
    assert rows["ivit8 eager"]["saved_ratio"] < 0.5


def test_every_reader_is_measured_on_the_same_photos(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("sklearn", reason="the photos are scikit-learn's")
    tables = figures(tmp_path, "data --images 8 --batch 4 --size 64 48 --workers 1 --rounds 1")
    seconds, megabytes = tables.pop("plan")
    assert min(seconds, megabytes) > 0
    assert set(tables) == {"crop and flip", "RandAugment"}
    for table in tables.values():
        assert len(table) == 4
        assert min(row["images_per_second"] for row in table.values()) > 0
    assert "8 JPEGs of 64 x 48" in capsys.readouterr().out


def test_the_native_runtime_is_measured_beside_torch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = "runtime --model deit_t --rounds 1 --peers torch_fp32 --operators --image-size 96x128"
    measured = figures(tmp_path, command)
    peer = measured["peers"]["torch_fp32"]
    assert peer["ratio"] == pytest.approx(peer["ms"] / measured["native_ms"])
    expected = {"model": "deit_t", "quant": "ivit8", "batch": 1, "threads": 1, "rounds": 1, "image_size": [96, 128]}
    assert measured["settings"] == expected | {"classes": None, "head": None}
    assert measured["native_cosine"] > 0.9  # it computes the same model
    assert measured["missing"] == {}
    assert 0 < measured["share_of_ceiling"] < 1.5
    printed = capsys.readouterr().out
    assert "attention                       12" in printed
    assert "native against itself: " in printed


def test_a_model_that_labels_pixels_is_measured_on_the_same_scores(tmp_path: Path) -> None:
    options = "--image-size 64x96 --classes 11 --head linear --rounds 1 --peers torch_fp32"
    measured = figures(tmp_path, f"runtime --model deit_t {options}")
    assert measured["settings"]["head"] == "linear"
    assert measured["native_cosine"] > 0.9
    assert measured["peers"]["torch_fp32"]["cosine"] > 0.999


def test_peers_are_held_to_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(bench_runtime, "in_fresh_process", lambda function, options: called.append(options) or 0)
    assert main(["bench", "runtime", "--isa", "avx2"]) == 0
    assert called[0].isa == "avx2"
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_a_noisy_machine_is_told_from_a_quiet_one() -> None:
    quiet, uneven = [1.0, 1.01, 0.99, 1.02, 0.98] * 4, [0.7, 1.0, 1.3, 1.0, 1.6] * 4
    assert spread(quiet) == pytest.approx(0.02)
    assert spread([1.0] * 19 + [50.0]) == 0.0  # one round that something disturbed
    assert verdict({"ratio": 1.0, "spread": spread(quiet)}).endswith("ratios beyond that are the runtimes'")
    assert "too noisy to tell" in verdict({"ratio": 1.0, "spread": spread(uneven)})
    assert "too noisy to tell" in verdict({"ratio": 1.2, "spread": 0.01})


@pytest.mark.parametrize(("name", "side"), [("deit_t", 32), ("swin_t", 56)])
@pytest.mark.parametrize("fuse", [True, False])
def test_the_macs_of_all_steps_are_those_of_the_program(name: str, side: int, fuse: bool) -> None:
    model = random_model(name, "ivit8", side, 0)
    calibrate(model, [torch.zeros(1, 3, side, side, dtype=torch.uint8)])
    program = record(model)
    counts = step_macs(program, lower(program, fuse=fuse).steps)
    assert sum(counts) == macs(program) > 0
