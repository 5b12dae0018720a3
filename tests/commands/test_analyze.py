"""`intvit analyze`: both reports of a small run, layer figures against their definitions, and what is refused."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu

from intvit.analysis.layer_error import layer_errors
from intvit.analysis.operator_curves import ALL, square_root
from intvit.arithmetic import GELU_FAMILIES, LAYERNORM_METHODS, SOFTMAX_FAMILIES
from intvit.calibration import calibrate
from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.models.presets import random_model
from intvit.program.cost import macs, operator_costs, totals
from intvit.quant import quant_layers, set_mode, trace
from intvit.training.entry import train
from intvit.training.restore import restore_run
from tests.support.browser import Browser
from tests.support.tiny_runs import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyze") / "run"
    train(tiny("quant=lut8", "model.depth=2", "schedule.qat=null", "schedule.frozen=null"), folder)
    return folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_the_model_report(run: Path, browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = ["--calibration-images", "16", "--images", "12", "--sensitivity-images", "4"]
    assert main(["analyze", "model", str(run), "--out", str(tmp_path / "out"), *small]) == 0
    said = capsys.readouterr().out
    assert "report.html" in said
    assert "GiB" in said
    _, _, model, _, _ = restore_run(str(run))
    named = {layer.name for layer in quant_layers(model)}
    table = rows(tmp_path / "out" / "layers.csv")
    assert {row["layer"] for row in table} <= named
    assert len(table) > 20
    changes = rows(tmp_path / "out" / "sensitivity.csv")
    assert all(set(json.loads(row["overrides"])) <= named for row in changes)
    assert all(float(row["moved"]) >= 0.0 for row in changes)
    depth = rows(tmp_path / "out" / "integers_up_to.csv")
    assert [row["integers"] for row in depth] == ["blocks.0", "blocks.1", "scores"]
    browser.open(tmp_path / "out" / "report.html", 390, 844)
    browser.tap("#sensitivity th:nth-child(4) button")
    moved = browser.evaluate(
        "[...document.querySelectorAll('#sensitivity tbody td:nth-child(4)')].map(c => +c.dataset.value)"
    )
    assert moved == sorted((float(row["moved"]) for row in changes), reverse=True)
    assert browser.failures == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("document.images.length") == 7
    assert len(browser.screenshot()) > 10_000


def test_the_operators_report_holds_every_family(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["analyze", "operators", str(run), "--calibration-images", "4", "--out", str(out)]) == 0
    families = {
        "softmax": SOFTMAX_FAMILIES,
        "gelu_errors": GELU_FAMILIES.standing_for(gelu),
        "layernorm": LAYERNORM_METHODS,
    }
    for name, expected in families.items():
        assert set(expected) <= {row["family"] for row in rows(out / f"{name}.csv")}
    wide = {(row["operator"], row["family"]): row for row in rows(out / "widths.csv")}
    for operator, expected in (
        ("softmax", SOFTMAX_FAMILIES),
        ("gelu", ("ivit", "ibert", "ppoly", "lut", "float")),
        ("layernorm", LAYERNORM_METHODS),
    ):
        for family in set(expected) - {"float"}:
            assert 8 <= int(wide[operator, family]["bits"]) <= 64
    real = rows(out / "layers.csv")
    assert {row["layer"] for row in real if row["operator"] == "gelu"} == {"blocks.0.mlp.act", "blocks.1.mlp.act"}
    by_family = {row["family"]: float(row["mean"]) for row in real if row["layer"] == "blocks.0.mlp.act"}
    assert by_family["lut"] == by_family["float"]  # a table is the rounded function


def test_curves_of_exact_forms_are_exact() -> None:
    curves = {data.name: data for data in (make() for make in ALL)}
    assert float(curves["exp"].errors()["lut"].abs().max()) < 1e-6
    assert float(curves["gelu"].errors()["lut"].abs().max()) <= 0.5
    root = square_root()
    assert torch.equal(
        root.families["exact"], torch.tensor([float(math.isqrt(int(v))) for v in root.x], dtype=torch.float64)
    )
    assert float(root.errors()["ivit, paper"].max()) > 1.0  # ten steps from 2^16 are far off for small values


def test_layer_figures_are_those_of_their_definitions() -> None:
    model = random_model("deit_t", "lut8", 32, 0)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    calibrate(model, [images])
    errors = layer_errors(model, images, 2, lambda: None)
    codes = trace(model, images)
    outputs = {}
    set_mode(model, "float")
    hooks = [
        layer.register_forward_hook(lambda layer, _, y: outputs.__setitem__(layer.name, y))
        for layer in quant_layers(model)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    program = record(model)
    for name in ("blocks.3.add1", "blocks.7.mlp.act", "blocks.0.norm2", "norm"):
        found, value = errors.layers[name], program.values[name]
        integer = torch.from_numpy(codes[name]).double()
        top = 1 << (value.bits - 1)
        assert found.bits == value.bits
        assert found.saturated == int(((integer == -top) | (integer == top - 1)).sum())
        assert found.largest == int(integer.abs().max())
        real, wanted = outputs[name].double(), integer * value.scale
        sqnr = 10 * math.log10(float(real.square().sum() / (real - wanted).square().sum()))
        assert found.sqnr == pytest.approx(sqnr, abs=1e-3)
        assert found.own_sqnr > found.sqnr  # it leaves out what came before
    for entropy in errors.attention.values():
        assert entropy.rows == 5 * 3 * 5
        assert 0.0 < entropy.mean("integer_entropy") <= math.log2(5) + 1e-9


def test_costs_are_counted_in_the_program() -> None:
    found = {}
    for quant in ("lut8", "w4a8", "w4a4"):
        model = random_model("deit_t", f"{quant},quant/calibration=mse", 32, 0)  # widths alone matter
        calibrate(model, [torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
        program = record(model)
        found[quant] = operator_costs(program)
        assert totals(found[quant])["macs"] == macs(program)
    assert sum(cost.bit_operations for cost in found["lut8"]) == 64 * sum(cost.macs for cost in found["lut8"])
    edges = ("patch_embed.proj", "head")  # at 8 bits
    for quant, saved in (("w4a8", 2), ("w4a4", 4)):
        for eight, four in zip(found["lut8"], found[quant], strict=True):
            assert eight.name == four.name
            if eight.op == "linear":
                assert four.bit_operations * (1 if eight.name in edges else saved) == eight.bit_operations
                assert four.energy < eight.energy or eight.name in edges


@pytest.mark.parametrize("command", ["analyze model", "search"])
@pytest.mark.parametrize("width", ["0", "1", "9", "x"])
def test_a_width_that_no_product_takes_is_refused_at_once(
    run: Path, tmp_path: Path, command: str, width: str, capsys: pytest.CaptureFixture
) -> None:
    more = ["--budget", "no16"] if command == "search" else []
    with pytest.raises(SystemExit):
        main([*command.split(), str(run), "--out", str(tmp_path / "out"), *more, "--bits", "4", width])
    assert "from 2 to 8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["analyze operators", "analyze model", "search"])
def test_a_file_in_the_place_of_the_folder_is_refused_at_once(
    run: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    more = ["--budget", "no16"] if command == "search" else []
    with pytest.raises(SystemExit):
        main([*command.split(), str(run), *more, "--out", str(tmp_path / "file")])
    assert "is a file; expected a folder" in capsys.readouterr().err


def test_what_can_not_be_analyzed_is_one_line(run: Path, tmp_path: Path) -> None:
    from intvit.commands import analyze_model

    weights = tmp_path / "w.safetensors"
    with pytest.raises(IntVitError, match="say --calibration DIR and --data DIR"):
        analyze_model.main([str(weights), "--out", str(tmp_path)])
    with pytest.raises(IntVitError, match=r"no such run folder, \.ckpt or weights file"):
        analyze_model.main([str(tmp_path / "absent"), "--out", str(tmp_path)])
    train(tiny("quant=fp32", "schedule.float=null", "schedule.qat=null", "schedule.frozen=null"), tmp_path / "float")
    with pytest.raises(IntVitError, match="has no integer ranges"):
        analyze_model.main([str(tmp_path / "float"), "--out", str(tmp_path)])
