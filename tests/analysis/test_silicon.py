"""What operators take on silicon: lanes for a frame rate, sizes from yosys, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intvit.analysis.silicon import Size, needs, read_statistics, synthesize, total
from intvit.analysis.silicon_sizes import SIZES
from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.export.rtl.operators import LANES
from intvit.export.rtl.site import kind_of
from intvit.export.rtl.softmax_gelu import TABLE_BITS
from intvit.program import save_checkpoint
from intvit.program.cost import macs
from tests.support.c_programs import need
from tests.support.random_programs import random_program
from tests.support.small_models import prepared, small_model


def test_lanes_are_what_a_frame_rate_needs() -> None:
    program = random_program(1)
    found = {need.kind: need for need in needs(program, SIZES, table=False, frames=1000, clock=1e5)}
    column = found["mac column"]
    assert column.elements == macs(program)
    assert (column.lanes - 1) * LANES * 1e5 < macs(program) * 1000 <= column.lanes * LANES * 1e5
    assert found["gelu shift"].lanes == -(-found["gelu shift"].elements * 1000 // 100_000)


def test_tables_stand_for_every_small_function_but_shift_gelu() -> None:
    for seed in range(16):
        program = random_program(seed)
        functions = [o for o in program.operators if o.op in ("exponential", "softmax", "gelu")]
        wide = {o.op for o in functions if program.values[o.inputs[0]].bits > TABLE_BITS}
        for found in needs(program, SIZES, table=True, frames=1, clock=1e6):
            if found.kind.split()[0] in {o.op for o in functions} - wide:
                assert found.kind.endswith(" table") or found.kind.startswith("gelu shift")


def test_a_total_counts_lanes_and_is_none_where_a_size_is_not_known() -> None:
    sizes = {("requantize", "computed"): Size(1, 2, 3, 4, 5)}
    found = needs(random_program(1), sizes, table=False, frames=1, clock=1.0)
    known = [need for need in found if need.kind == "requantize"]
    lanes = known[0].lanes
    assert total(known) == Size(lanes, 2 * lanes, 3 * lanes, 4 * lanes, 5 * lanes)
    assert total(found) is None


def test_both_orders_of_yosys_statistics_are_read() -> None:
    expected = Size(7, 6, 2, 3, 7)
    cells = {"LUT1": 9, "LUT2": 3, "LUT6": 4, "FDRE": 5, "FDSE": 1, "DSP48E1": 2, "RAMB18E1": 1, "RAMB36E1": 1}
    cells |= {"RAM32M": 6, "SRL16E": 1, "CARRY4": 8}
    assert read_statistics("".join(f"     {name}      {count}\n" for name, count in cells.items())) == expected
    assert read_statistics("".join(f"  {count:>6}   {name}\n" for name, count in cells.items())) == expected


def test_the_page_stands_beside_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("ivit8", 1), ("ibert8_quant_gelu_lut", 2)):
        save_checkpoint(random_program(seed), tmp_path / name)
    rows = [{"preset": n, "sets": {"photos": {"top1": 70.5, "divergence": 0.1}}} for n in ("ivit8", "ibert8")]
    rows[1]["preset"] = "ibert8,quant/gelu=lut"
    (tmp_path / "figures.json").write_text(json.dumps({"settings": {}, "rows": rows}))
    folders = [str(tmp_path / name) for name in ("ivit8", "ibert8_quant_gelu_lut")]
    options = ["--out", str(tmp_path / "page"), "--accuracy", str(tmp_path / "figures.json")]
    assert not main(["analyze", "silicon", *folders, *options])
    assert "ivit8: " in capsys.readouterr().out
    assert "70.5" in (tmp_path / "page" / "report.html").read_text()
    assert (tmp_path / "page" / "lanes.csv").read_text().startswith("model,functions,kind,elements,lanes,lut")
    with pytest.raises(SystemExit):
        main(["analyze", "silicon", *folders, "--out", str(tmp_path / "b"), "--accuracy", str(tmp_path / "none.json")])


@pytest.mark.slow
def test_the_table_is_made_anew_with_yosys() -> None:
    need("yosys")
    program = random_program(2)
    sizes = synthesize([program])
    assert sizes["gelu table", "table"].dsp == 0
    assert sizes["gelu polynomial", "computed"].dsp > 0


def test_without_yosys_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    program = random_program(2)
    with pytest.raises(IntVitError, match=r"--synthesize needs yosys, which is not installed"):
        synthesize([program])


def test_short_constants_are_kinds_of_their_own() -> None:
    for preset in ("ivit8", "ppoly8"):
        free, short = (record(prepared(small_model(preset, more))) for more in ([], ["quant/hardware=dsp17"]))
        kinds = [{kind_of(program, o) for o in program.operators} - {None} for program in (free, short)]
        assert not any(kind.endswith(" short") for kind in kinds[0])
        assert {kind.removesuffix(" short") for kind in kinds[1]} == kinds[0]
        assert kinds[1] - {kind for kind in kinds[1] if kind.endswith(" short")} == {"mac column"}


def test_two_checkpoints_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [str(tmp_path / parent / "model") for parent in ("a", "b")]
    with pytest.raises(SystemExit):
        main(["analyze", "silicon", *folders, "--out", str(tmp_path / "page")])
    assert "two checkpoints are called model, and the page would hold one: rename a folder" in capsys.readouterr().err
