"""`intvit bench presets` on random weights and synthetic photos: its table, its file, and going on after a kill."""

import json
from pathlib import Path

import pytest
import torch

from intvit.bench.paired import binomial_p, paired
from intvit.commands import bench_presets, main
from intvit.errors import IntVitError
from intvit.models import create_model
from intvit.quant.presets import compose_quant
from tests.support.synthetic_shards import write_split


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    size = {"image_size": 224, "patch_size": None, "num_classes": 1000, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = create_model("deit_t", **size, quant=compose_quant("fp32"))
    torch.save(dict(model.named_parameters()), tmp_path / "weights.pth")
    write_split(tmp_path / "photos", "train", [3])
    write_split(tmp_path / "photos", "val", [3])
    folder, weights, figures = (str(tmp_path / name) for name in ("photos", "weights.pth", "figures.json"))
    options = ["--weights", weights, "--calibration", folder, "--images", "2", "--data", f"photos={folder}"]
    return ["bench", "presets", *options, "--limit", "2", "--check", "1", "--json", figures]


def test_the_table_the_file_and_resuming(command: list[str], capsys, monkeypatch) -> None:
    assert main([*command, "--quant", "lut8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][-2:] == ["float", "lut8"]  # and no line of a progress bar
    figures = json.loads(Path(command[-1]).read_text())
    row = figures["rows"][1]
    assert (row["preset"], row["mismatches"], row["checked"]) == ("lut8", 0, 1)
    assert row["sets"]["photos"]["agreement"] in (0.0, 50.0, 100.0)

    measured = []
    monkeypatch.setattr(bench_presets, "row_of", lambda _, preset, *rest, **how: measured.append(preset) or row)
    assert main([*command, "--quant", "lut8", "ivit8"]) == 0
    assert measured == ["ivit8"]
    assert len(json.loads(Path(command[-1]).read_text())["rows"]) == 3


def test_figures_of_other_settings_are_not_mixed_in(command: list[str], tmp_path: Path) -> None:
    Path(command[-1]).write_text(json.dumps({"settings": {"model": "deit_s"}, "rows": []}))
    with pytest.raises(
        IntVitError, match=r"figures.json holds figures for --model deit_s, not deit_t; name another file"
    ):
        bench_presets.main(command[2:])


def test_presets_of_a_folder_are_tested_against_one_of_them(command: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "more" / "quant").mkdir(parents=True)
    (tmp_path / "more" / "quant" / "found.yaml").write_text("defaults:\n  - w4a8\n  - _self_\nname: found\n")
    more = ["--config-dir", str(tmp_path / "more"), "--quant", "w4a8", "found", "--against", "found"]
    assert main([*command, *more]) == 0
    said = capsys.readouterr().out
    assert "found minus another preset on photos" in said
    line = said.splitlines()[-1].split()
    assert line == ["w4a8", "+0.00", "±", "0.00", "1", "+0.00", "±", "0.00", "1", "+0.0000", "±", "0.0000", "1"]
    with pytest.raises(IntVitError, match="--against lut9: not among the presets w4a8, found"):
        bench_presets.main([*command[2:], *more, "--against", "lut9"])


def test_paired_tests_are_exact() -> None:
    assert binomial_p(0, 0) == 1.0
    assert binomial_p(5, 0) == 2 / 2**5
    assert binomial_p(1, 9) == binomial_p(9, 1) == 2 * (1 + 10) / 2**10
    assert binomial_p(4, 4) == 1.0
    ones, zeros = {"images": {"top1": [1, 1, 1, 0]}}, {"images": {"top1": [0, 1, 0, 0]}}
    mean, error, p = paired(ones, zeros, "top1")
    assert (mean, p) == (50.0, 0.5)
    assert error == pytest.approx(100 * (1 / 3 / 4) ** 0.5)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}'])
def test_a_file_of_something_else_is_left_alone(
    command: list[str], content: str, capsys: pytest.CaptureFixture
) -> None:
    Path(command[-1]).write_text(content)
    with pytest.raises(SystemExit):
        main([*command, "--quant", "lut8"])
    assert "holds no figures of this command" in capsys.readouterr().err
    assert Path(command[-1]).read_text() == content


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "a=DIR", "a=DIR2"], "--data: the names a, a are not unique"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: holds no quant/*.yaml"),
    ],
)
def test_options_that_mean_nothing_are_named(
    command: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([*command, *more])
    assert message in capsys.readouterr().err
