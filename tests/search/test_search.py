"""`intvit search`: what it finds is within the budget, survives interruptions, and is what train.py then makes."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from intvit.analysis.analyzed_model import ModelSource, read_model
from intvit.calibration import calibrate
from intvit.commands import main
from intvit.commands import search as command
from intvit.config.presets import config_directory
from intvit.data.digits import digits_root
from intvit.data.loading import calibration_loader, first_images
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.files import write_text
from intvit.quant.presets import compose_quant
from intvit.search import search as steps
from intvit.search.budget import Usage, usage
from intvit.search.cached_evaluator import CachedEvaluator, workers
from intvit.search.evaluator import Candidate, Evaluator, program_hash
from intvit.search.held_out import held_out_images
from intvit.search.preset_file import compact, preset_text
from intvit.training.entry import train
from intvit.training.restore import build_model, restore_run
from tests.support.quick import slow_but
from tests.support.shared import shared_folder
from tests.support.tiny_runs import TINY, tiny

COUNTS = {"calibration-images": 32, "alone-images": 4, "search-images": 8, "final-images": 8, "trials": 8}
SMALL = [*(text for name, count in COUNTS.items() for text in (f"--{name}", str(count))), "--bits", "4", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny("quant=lut8", "schedule.qat=null", "schedule.frozen=null")
    return shared_folder(tmp_path_factory, "float", lambda folder: train(config, folder))


def search(run: Path, out: Path, *more: str) -> dict[str, Any]:
    assert main(["search", str(run), "--out", str(out), *SMALL, *more]) == 0
    return json.loads((out / "search.json").read_text())


@pytest.fixture(scope="module")
def found(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    budget = ["--budget", "bytes=w6a6", "bitops=w6a6"]
    return shared_folder(tmp_path_factory, "found", lambda out: search(run, out, *budget))


def test_train_with_the_found_preset_makes_the_measured_program(run: Path, found: Path, tmp_path: Path) -> None:
    _, _, model, _, _ = restore_run(str(run))
    torch.save(dict(model.named_parameters()), tmp_path / "weights.pth")
    preset = ["--config-dir", str(found), "quant=found", "schedule=calibrate", "schedule.calibrate.images=32"]
    config = [setting for setting in TINY if not setting.startswith("schedule.")]
    folder = tmp_path / "run"
    train_py = config_directory().parent / "train.py"
    command = [sys.executable, str(train_py), *preset, *config, f"model.weights={tmp_path / 'weights.pth'}"]
    subprocess.run([*command, f"hydra.run.dir={folder}"], check=True, cwd=tmp_path, capture_output=True)
    program = record(restore_run(str(folder))[2])
    figures = json.loads((found / "search.json").read_text())
    assert program_hash(program) == figures["program"]
    assert usage(program, prove=False).bytes == figures["bytes"] <= figures["budget"]["bytes"]
    assert usage(program, prove=False).bitops == figures["bitops"] <= figures["budget"]["bitops"]


@pytest.mark.parametrize("preset", ["ivit8", "ibert8_true8", "ivit_paper", "w4a8"])
def test_one_collection_of_statistics_gives_the_program_of_every_preset(run: Path, preset: str) -> None:
    analyzed = read_model(ModelSource(str(run), calibration_images=32))
    analyzed.calibration_batch = 8
    analyzed.calibrated(compose_quant("lut8"))  # ranges that both have are known then
    whole = build_model(analyzed.config, compose_quant(preset), load=False)
    whole.load_state_dict(dict(analyzed.model.named_parameters()), strict=False)
    calibrate(whole, analyzed.calibration.split(8))
    assert program_hash(record(analyzed.calibrated(compose_quant(preset)))) == program_hash(record(whole))


@pytest.mark.parametrize("photos", ["center", "mixed"])
def test_images_of_the_search_are_never_of_photos_that_calibration_saw(run: Path, photos: str) -> None:
    """Also where --search names the folder that calibration reads, by whatever path."""
    analyzed = read_model(ModelSource(str(run), calibration_images=32, photos=photos))
    kept = replace(analyzed.data, calibration_photos="center")
    calibrated, _ = first_images(calibration_loader(kept), 64 if photos == "mixed" else 32)
    assert torch.equal(analyzed.calibration, calibrated) == (photos == "center")
    root = digits_root()
    behind = held_out_images(analyzed, None, None, 16)
    for folder in (str(root), f"{root}/../{root.name}"):
        images = held_out_images(analyzed, folder, None, 16)
        assert len(images) == 16
        assert not any((image == seen).all() for image in images[::2] for seen in calibrated)
        assert torch.equal(images, behind)


def test_every_preset_within_the_budget_meets_the_candidates(found: Path) -> None:
    page = (found / "report.html").read_text()
    assert "w6a6" in page
    for name in ("pareto", "finalists", "widths"):
        assert (found / f"{name}.png").stat().st_size > 10_000, name
    final = (found / "final.csv").read_text()
    assert "\nw6a6," in final
    assert "\nlut8," not in final  # beyond the budget


@pytest.mark.slow
def test_an_interrupted_search_and_one_with_two_processes_find_the_same(
    run: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (found / "measurements.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    out = tmp_path / "again"
    out.mkdir()
    (out / "measurements.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:-9])
    search(run, out, "--budget", "bytes=w6a6", "bitops=w6a6", "--jobs", "2")
    for name in ("search.json", "quant/found.yaml", "candidates.csv", "alone.csv", "final.csv"):
        texts = [(folder / name).read_text().splitlines() for folder in (found, out)]
        first, second = ([line for line in text if not line.startswith("# Found by")] for text in texts)
        assert first == second, name
    assert sorted((out / "measurements.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())

    def refuse(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Evaluator, "measure", refuse)
    assert search(run, out, "--budget", "bytes=w6a6", "bitops=w6a6") == json.loads((found / "search.json").read_text())
    same = [os.path.relpath(run), "--out", str(out), *SMALL, "--budget", "bytes=w6a6", "bitops=w6a6"]
    assert command.main(same) == 0  # where things lie is no part of it
    with pytest.raises(IntVitError, match=r"holds a search with seed 0, not 1; name another --out, or .* --fresh"):
        command.main([*same, "--seed", "1"])
    monkeypatch.setattr(command, "compose_quant", lambda _: compose_quant("lut8"))
    with pytest.raises(IntVitError, match="holds a search with presets"):
        command.main(same)


class Dying(Evaluator):
    """Killed by the system in the middle of a measurement, as for want of memory."""

    def __init__(self) -> None: ...

    def measure(self, *_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_search_in_one_line(tmp_path: Path) -> None:
    journal = command.Journal(tmp_path / "measurements.jsonl", {}, fresh=False)
    with pytest.raises(IntVitError, match=r"worker process was killed.*--jobs"), workers(Dying(), 2) as pool:
        CachedEvaluator(Dying(), journal, pool).measure([Candidate("lut8", {})], 0, 1)


def test_a_kill_leaves_what_was_written_before(found: Path, run: Path, tmp_path: Path) -> None:
    """Nothing but the journal is written before the end."""
    out = tmp_path / "killed"

    class Killed(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Search, "_finals", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            command.main([str(run), "--out", str(out), *SMALL, "--budget", "widest=8"])
    assert [path.name for path in out.iterdir()] == ["measurements.jsonl"]


def test_budgets_of_sums_and_of_tensors_hold_on_the_recorded_program(run: Path, tmp_path: Path) -> None:
    figures = search(run, tmp_path, "--budget", "accumulator=17", "no16", "--trials", "4")
    assert figures["budget"] == {"accumulator": 17.0, "widest": 8.0}
    assert figures["accumulator"] <= 17
    assert figures["widest"] <= 8
    rows = (tmp_path / "candidates.csv").read_text().splitlines()
    columns = rows[0].split(",")
    accumulator, stage = columns.index("accumulator"), columns.index("stage")
    candidates = [row.split(",") for row in rows[1:] if row.split(",")[stage] == "search"]
    assert candidates
    assert all(int(row[accumulator]) <= 17 for row in candidates)


@pytest.mark.parametrize("budget", ["size=3", "bytes=", "bytes", "bytes=w5a5", "bitops=-3", "16"])
def test_an_unknown_budget_is_refused_in_one_line(tmp_path: Path, budget: str) -> None:
    """Before anything is read or written."""
    with pytest.raises(IntVitError, match=f"--budget {budget}.*(bitops=AMOUNT|no amount)"):
        command.main(["absent", "--out", str(tmp_path / "out"), *SMALL, "--budget", "no16", budget])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--alone-images", "--search-images", "--final-images"])
def test_one_image_has_no_standard_error(tmp_path: Path, option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.main(["absent", "--out", str(tmp_path / "out"), "--budget", "no16", option, "1"])
    assert "expected a number of at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("budget", slow_but(("bitops=10",), ("bytes=10", "bitops=10", "accumulator=5")))
def test_a_budget_below_everything_is_refused_before_changes_are_measured(
    run: Path, tmp_path: Path, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.Search, "_alone", lambda *_: pytest.fail("measured changes"))
    name = budget.partition("=")[0]
    with pytest.raises(
        IntVitError, match=f"no candidate is within it, the narrowest has {name} .*; narrower --bits, or a"
    ):
        command.main([str(run), "--out", str(tmp_path), *SMALL, "--budget", budget])


def test_no_preset_with_tensors_so_narrow_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match="--budget widest at most 4: no preset has tensors that narrow"):
        command.main([str(run), "--out", str(tmp_path), *SMALL, "--budget", "widest=4"])


def test_patterns_give_every_site_what_the_candidate_gives_it() -> None:
    base = compose_quant("lut8_true8")
    sites = ["embed", *(f"blocks.{i}.{part}" for i in range(12) for part in ("attn.qkv", "add1", "mlp.act"))]
    generator = torch.Generator().manual_seed(0)
    for largest in (6, 7, 8):
        bits = torch.randint(4, 9, (len(sites),), generator=generator).clamp(max=largest).tolist()
        overrides: dict[str, Any] = {
            site: {"bits": {"weight": bit}} for site, bit in zip(sites, bits, strict=True) if bit != 8
        }
        overrides.setdefault("embed", {})["observer"] = {"activation": "minmax"}
        short = compact(base, overrides, sites)
        long, quant = Candidate("lut8_true8", overrides).quant(), Candidate("lut8_true8", short).quant()
        assert all(long.site(site) == quant.site(site) for site in sites)
    alike = {site: {"bits": {"weight": 4}} for site in sites if "qkv" in site}
    assert compact(base, alike, sites) == {"blocks.*.attn.qkv": {"bits": {"weight": 4}}}
    alike["blocks.3.attn.qkv"] = {"bits": {"weight": 6}}
    assert list(compact(base, alike, sites)) == ["blocks.*.attn.qkv", "blocks.3.attn.qkv"]


def test_a_candidate_with_every_step_of_calibration_is_written_as_such(tmp_path: Path) -> None:
    overrides = {"blocks.0.attn.qkv": {"bits": {"weight": 4}}}
    candidate = Candidate("lut8", overrides).with_every_step()
    assert candidate.quant().calibration == compose_quant("w4a4").calibration
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "found.yaml").write_text(preset_text(candidate, ["blocks.0.attn.qkv"], ["a note"]))
    assert compose_quant("found", [], tmp_path) == replace(candidate.quant(), name="found")


def test_the_best_candidates_come_again_with_every_step_of_calibration(found: Path) -> None:
    rows = (found / "candidates.csv").read_text().splitlines()
    assert sum("quant/calibration=full" in row for row in rows) >= 1


def test_a_journal_is_whole_or_shorter(tmp_path: Path) -> None:
    write_text(tmp_path / "measurements.jsonl", '{"settings": {"seed": 0}}\n{"key": "a", "jud')
    journal = command.Journal(tmp_path / "measurements.jsonl", {"seed": 0}, fresh=False)
    assert journal.held == {}
    assert (tmp_path / "measurements.jsonl").read_text() == '{"settings": {"seed": 0}}\n'
    assert os.listdir(tmp_path) == ["measurements.jsonl"]
    with pytest.raises(IntVitError, match="seed 0, not 1"):
        command.Journal(tmp_path / "measurements.jsonl", {"seed": 1}, fresh=False)


@pytest.mark.parametrize("text", ['{"settings": {"seed": 0}}\n{"key": "a"}\n', "[]\n", '{"settings": 3}\n', "\0\n"])
def test_a_file_that_is_no_journal_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "measurements.jsonl", text)
    with pytest.raises(IntVitError, match=r"measurements.jsonl: line \d is no measurement; .*--fresh"):
        command.Journal(tmp_path / "measurements.jsonl", {"seed": 0}, fresh=False)
    assert (tmp_path / "measurements.jsonl").read_text() == text
    assert command.Journal(tmp_path / "measurements.jsonl", {"seed": 0}, fresh=True).held == {}


def test_usage_names_the_widest_sum() -> None:
    assert Usage(1.0, 1, 8, {"a": 17, "b": 20}).accumulator == 20
