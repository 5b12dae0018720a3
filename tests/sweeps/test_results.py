"""The table of finished runs: what differs, what a preset's name says already, what they reached."""

import csv
import json
from pathlib import Path

import pytest

from intvit.commands.results import main
from intvit.errors import IntVitError
from intvit.training.run_folder import write_config
from tests.support.tiny_runs import composed


def run(folder: Path, top1: float, *overrides: str) -> None:
    write_config(folder, composed(*overrides))
    summary = {"steps": 3, "seconds": 1.5, "float": {"top1": 90.0}, "integer": {"top1": top1}}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_rows_have_what_differs_and_are_sorted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path / "a", 70.0, "quant=ivit8", "seed=1")
    run(tmp_path / "b", 80.0, "quant=lut8", "seed=1")
    run(tmp_path / "c", 75.0, "quant=lut8", "quant/bits=true8", "seed=1")
    (tmp_path / "unfinished").mkdir()
    assert main([*(str(path) for path in sorted(tmp_path.iterdir())), "--csv", str(tmp_path / "results.csv")]) == 0
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["run folder"]).name for row in rows] == ["b", "c", "a"]
    assert [row["integer/top1"] for row in rows] == ["80.0", "75.0", "70.0"]
    names = [name for name in rows[0] if name.startswith(("quant", "seed", "model", "data"))]
    # The families follow from the preset's name, the bits of c do not.
    assert names[0] == "quant.name"
    assert all(name.startswith("quant.bits.") for name in names[1:])
    assert [row["quant.bits.residual"] for row in rows] == ["16", "8", "16"]
    assert "lut8" in capsys.readouterr().out


def test_folders_without_a_finished_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=r"no finished run among 1 folders: runs have config.yaml and summary.json"):
        main([str(tmp_path)])
    with pytest.raises(IntVitError, match="gone: no such folder"):
        main([str(tmp_path), str(tmp_path / "gone")])


def test_an_unknown_column_and_a_damaged_summary_are_named(tmp_path: Path) -> None:
    run(tmp_path / "a", 50.0)
    with pytest.raises(IntVitError, match="--sort nope: no such column; there are "):
        main([str(tmp_path / "a"), "--sort", "nope"])
    for content in ("", "[]", "null", "{}", '{"integer": {"top1": "high"}}'):
        (tmp_path / "a" / "summary.json").write_text(content)
        with pytest.raises(IntVitError, match=r"a/summary.json is not what train.py writes"):
            main([str(tmp_path / "a")])
