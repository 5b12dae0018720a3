"""`--family`: an approximation of one's own, a module in the current folder, is listed beside ours without an edit."""

import csv
import importlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES
from intvit.arithmetic.families import Families
from intvit.commands import main
from intvit.errors import IntVitError
from intvit.reports.style import FAMILY_COLORS, family_color
from intvit.training.entry import train
from tests.support.tiny_runs import tiny

MODULE = '''"""Own families of a test."""
import torch
from intvit.arithmetic.elementary import exp

def half(codes, scale, output_scale):
    """x / 2: a poor GELU."""
    return torch.floor(codes.double() * scale / 2 / output_scale + 0.5).long()

def powers(distances, scale, largest):
    """2^-d for e^-d: a poor exponential."""
    return torch.floor(largest * torch.ldexp(torch.ones(1).double(), -torch.floor(distances * scale)) + 0.5).long()
'''
GELU, SOFTMAX = "own_families:half", "own_families:powers"
OPTIONS = ["--family", f"gelu={GELU}", "--family", f"softmax={SOFTMAX}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family") / "run"
    train(tiny("quant=lut8", "schedule.qat=null", "schedule.frozen=null"), folder)
    return folder


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module is in the current folder, and forgotten afterwards."""
    (tmp_path / "own_families.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_families", None)
    GELU_FAMILIES._families.pop(GELU, None)
    SOFTMAX_FAMILIES._families.pop(SOFTMAX, None)


def column(path: Path, name: str, /, **equal: str) -> set[str]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row[name] for row in rows if equal.items() <= row.items()}


def test_analyze_operators_lists_it_in_every_table(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["--calibration-images", "4", "--out", str(out)]
    assert main(["analyze", "operators", str(run), *small, *OPTIONS]) == 0
    assert GELU in column(out / "gelu_errors.csv", "family")
    assert SOFTMAX in column(out / "softmax.csv", "family")
    assert {GELU, SOFTMAX} <= column(out / "functions.csv", "family")
    for operator, family in (("gelu", GELU), ("softmax", SOFTMAX)):
        assert family in column(out / "widths.csv", "family", operator=operator)
        assert family in column(out / "layers.csv", "family", operator=operator)


def test_analyze_model_swaps_it_in(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ["--calibration-images", "8", "--images", "4", "--sensitivity-images", "2", "--out", str(out)]
    assert main(["analyze", "model", str(run), *small, *OPTIONS]) == 0
    changes = column(out / "sensitivity.csv", "change")
    assert {f"lut → {GELU}", f"softmax lut → {SOFTMAX}"} <= changes


@pytest.mark.slow  # tests/search has worker processes, the tests beside it a family's change
def test_a_search_measures_it_in_worker_processes_and_knows_a_change_of_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = {"calibration-images": 8, "alone-images": 2, "search-images": 4, "final-images": 4, "trials": 2}
    small = [*(text for name, count in counts.items() for text in (f"--{name}", str(count))), "--bits", "6"]
    arguments = ["search", str(run), "--out", str(out), *small, "--budget", "bytes=lut8", "--jobs", "2", *OPTIONS]
    assert main(arguments) == 0
    assert GELU in column(out / "alone.csv", "value", key="gelu.family")
    assert SOFTMAX in column(out / "alone.csv", "value", key="softmax.family")
    first = json.loads((out / "measurements.jsonl").read_text().splitlines()[0])
    assert set(first["settings"]["families"]) == {f"gelu={GELU}", f"softmax={SOFTMAX}"}
    (tmp_path / "own_families.py").write_text(MODULE + "# changed\n")
    with pytest.raises(SystemExit):
        main(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relu=own_families:half", "--family relu=own_families:half: expected gelu=MODULE:FUNCTION or softmax="),
        ("gelu=lut", "--family gelu=lut: expected gelu=MODULE:FUNCTION"),
        ("gelu=absent_families:half", "no module absent_families in"),
        ("gelu=own_families:third", r"no third in .*own_families\.py; it has half, powers"),
    ],
)
@pytest.mark.parametrize("command", ["analyze_operators", "analyze_model", "search"])
def test_one_that_can_not_be_had_is_said_before_any_work(tmp_path: Path, command: str, text: str, message: str) -> None:
    module = importlib.import_module(f"intvit.commands.{command}")
    more = {"analyze_operators": [], "analyze_model": ["absent"], "search": ["absent", "--budget", "no16"]}[command]
    with pytest.raises(IntVitError, match=message):
        module.main(["--out", str(tmp_path / "out"), *more, "--family", text])
    assert not (tmp_path / "out").exists()


def test_a_family_that_was_only_asked_for_is_not_measured_by_a_later_command(run: Path, tmp_path: Path) -> None:
    """One process may run several commands, a notebook many: each lists ours and its own --family."""
    for families, name in ((GELU_FAMILIES, GELU), (SOFTMAX_FAMILIES, SOFTMAX)):
        assert families[name].foreign
        assert name not in list(families)
        with families.listing([name]):
            assert list(families).count(name) == 1
            assert name in dict(families)
        assert name not in list(families)
    out = tmp_path / "out"
    assert main(["analyze", "operators", "--out", str(out), "--family", f"gelu={GELU}"]) == 0
    assert GELU in column(out / "functions.csv", "family")
    assert main(["analyze", "operators", "--out", str(out)]) == 0
    assert {GELU, SOFTMAX}.isdisjoint(column(out / "functions.csv", "family"))


def test_a_family_of_ones_own_keeps_its_colour() -> None:
    own, other = family_color("a:b"), family_color("c:d")
    assert own != other
    assert {own, other}.isdisjoint(FAMILY_COLORS.values())
    assert (family_color("a:b"), family_color("c:d")) == (own, other)
    assert family_color("ivit") == FAMILY_COLORS["ivit"]


@pytest.mark.parametrize("families", [GELU_FAMILIES, SOFTMAX_FAMILIES], ids=["gelu", "softmax"])
def test_a_family_is_found_again_by_name_in_another_process(families: Families) -> None:
    for family in families.values():
        assert pickle.loads(pickle.dumps(family)) is family
