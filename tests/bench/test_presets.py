"""`intvit bench presets` on random weights and synthetic photos: its table, its file, and going on after a kill."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from intvit.bench.ablation import cumulative
from intvit.bench.intervals import FIGURES, figures, intervals
from intvit.bench.paired import binomial_p, paired
from intvit.calibration import ABLATION
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
    words = ["calibrated", "preset", "float", "classes", "classes", "lut8", "classes", "classes", "mean"]
    assert [line.split()[0] for line in lines] == words  # and no line of a progress bar
    held = json.loads(Path(command[-1]).read_text())
    row = held["rows"][1]
    assert (row["preset"], row["mismatches"], row["checked"]) == ("lut8", 0, 1)
    assert row["calibration_cpu"] > 0
    measured = row["sets"]["photos"]
    assert measured["agreement"] in (0.0, 50.0, 100.0)
    kinds = {kind: part["count"] for kind, part in measured["classes"].items()}
    assert kinds == {"seen": 1, "unseen": 1}  # labels 0 and 1; calibration has photos of 0 and 2
    for key in FIGURES:
        low, high = measured["intervals"][key]
        assert low <= measured[key] <= high
        assert f"{measured[key]:.1f} [{low:.1f}, {high:.1f}]" in lines[5] or key == "divergence"
    assert (held["rows"][0]["sets"]["photos"]["divergence"], held["rows"][0]["sets"]["photos"]["agreement"]) == (0, 100)

    measured = []
    monkeypatch.setattr(bench_presets, "row_of", lambda _, preset, *rest, **how: measured.append(preset) or row)
    assert main([*command, "--quant", "lut8", "ivit8"]) == 0
    assert measured == ["ivit8"]
    assert len(json.loads(Path(command[-1]).read_text())["rows"]) == 3


def test_figures_of_other_settings_are_not_mixed_in(command: list[str], tmp_path: Path) -> None:
    held = {"form": bench_presets.FORM, "settings": {"model": "deit_s"}, "rows": []}
    Path(command[-1]).write_text(json.dumps(held))
    with pytest.raises(
        IntVitError, match=r"figures.json holds figures for --model deit_s, not deit_t; name another file"
    ):
        bench_presets.main(command[2:])


def test_presets_of_a_folder_are_tested_against_one_of_them(command: list[str], tmp_path: Path, capsys) -> None:
    (tmp_path / "more" / "quant").mkdir(parents=True)
    (tmp_path / "more" / "quant" / "found.yaml").write_text("defaults:\n  - lut8\n  - _self_\nname: found\n")
    more = ["--config-dir", str(tmp_path / "more"), "--quant", "lut8", "found", "--against", "found"]
    assert main([*command, *more]) == 0
    said = capsys.readouterr().out
    assert "found minus another preset on photos" in said
    line = said.splitlines()[-1].split()
    assert line == ["lut8", "+0.0000", "±", "0.0000", "1", "+0.00", "±", "0.00", "1", "+0.00", "±", "0.00", "1"]
    with pytest.raises(IntVitError, match="--against lut9: not among the presets lut8, found"):
        bench_presets.main([*command[2:], *more, "--against", "lut9"])


def test_an_ablation_has_a_row_for_every_step_a_picture_and_goes_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (("all off", ("quant.observer.activation=minmax",)), ("mse", ("quant.observer.activation=mse",)))
    monkeypatch.setattr(bench_presets, "ABLATION", steps)
    assert main([*command, "--ablate", "lut8"]) == 0
    held = json.loads(Path(command[-1]).read_text())
    presets = ["float", "lut8,quant.observer.activation=minmax", "lut8,quant.observer.activation=mse"]
    assert [row["preset"] for row in held["rows"]] == presets
    assert [row.get("step") for row in held["rows"]] == [None, "all off", "mse"]
    assert "\nall off  " in capsys.readouterr().out
    picture = tmp_path / "figures.png"
    assert picture.stat().st_size > 10_000

    monkeypatch.setattr(bench_presets, "row_of", lambda *_, **__: pytest.fail("measured again"))
    whole = picture.read_bytes()
    assert main([*command, "--ablate", "lut8", "--plot", str(tmp_path / "again" / "picture.png")]) == 0
    assert (tmp_path / "again" / "picture.png").read_bytes() == whole
    with pytest.raises(IntVitError, match="holds figures for --ablate lut8, not w4a8"):
        bench_presets.main([*command[2:], "--ablate", "w4a8"])


def test_a_later_value_of_a_step_replaces_an_earlier_one() -> None:
    steps = [("off", ("a.b=0", "quant/x=one")), ("nothing", ()), ("on", ("quant/x=two", "c=1"))]
    rows = cumulative("w4a8,a.b=7", steps)
    assert [row.label for row in rows] == ["off", "nothing", "on"]
    assert [row.preset for row in rows] == ["w4a8,a.b=0,quant/x=one"] * 2 + ["w4a8,a.b=0,quant/x=two,c=1"]


@pytest.mark.parametrize("preset", ["lut8", "w4a8", "w6a6"])
def test_every_step_of_calibration_is_a_config_and_each_another_one(preset: str) -> None:
    configs = [compose_quant(row.name, list(row.overrides)) for row in cumulative(preset, ABLATION)]
    assert all(before != after for before, after in pairwise(configs))


def test_paired_tests_are_exact() -> None:
    assert binomial_p(0, 0) == 1.0
    assert binomial_p(5, 0) == 2 / 2**5
    assert binomial_p(1, 9) == binomial_p(9, 1) == 2 * (1 + 10) / 2**10
    assert binomial_p(4, 4) == 1.0
    ones, zeros = {"images": {"top1": [1, 1, 1, 0]}}, {"images": {"top1": [0, 1, 0, 0]}}
    mean, error, p = paired(ones, zeros, "top1")
    assert (mean, p) == (50.0, 0.5)
    assert error == pytest.approx(100 * (1 / 3 / 4) ** 0.5)


def test_a_file_of_the_older_form_is_named(command: list[str]) -> None:
    Path(command[-1]).write_text(json.dumps({"settings": {"model": "deit_t"}, "rows": [{"preset": "float"}]}))
    with pytest.raises(IntVitError, match=r"figures.json holds figures of an older form, without intervals; name"):
        bench_presets.main(command[2:])


def test_intervals_are_those_of_resampled_images() -> None:
    random = np.random.RandomState(1)
    values = np.stack([random.normal(3.0, 2.0, 900), 100.0 * (random.uniform(size=900) < 0.9)])
    ends = intervals(values)
    assert np.array_equal(ends, intervals(values))  # the seed stands
    spread = values.std(1) / 900**0.5
    assert np.allclose(
        ends, values.mean(1)[:, None] + 1.96 * spread[:, None] * [[-1, 1]], rtol=0, atol=0.2 * spread[:, None]
    )
    assert intervals(np.full((1, 5), 7.0)).tolist() == [[7.0, 7.0]]  # equal images leave nothing open
    assert intervals(np.array([[3.0]])).tolist() == [[3.0, 3.0]]


def test_classes_that_calibration_saw_are_told_from_others_where_there_are_both() -> None:
    images = {"divergence": np.array([0.1, 0.3, 0.5]), "agreement": np.array([1, 1, 0]), "top1": np.array([0, 1, 0])}
    measured = figures(images, np.array([True, False, False]))
    assert (measured["count"], measured["agreement"], measured["top1"]) == (3, 200 / 3, 100 / 3)
    seen, unseen = measured["classes"]["seen"], measured["classes"]["unseen"]
    assert (seen["count"], seen["divergence"], seen["agreement"], seen["top1"]) == (1, 0.1, 100.0, 0.0)
    assert (unseen["count"], unseen["divergence"], unseen["agreement"], unseen["top1"]) == (2, 0.4, 50.0, 50.0)
    assert measured["images"]["divergence"] == [0.1, 0.3, 0.5]
    for seen_classes in ([True] * 3, [False] * 3):
        assert figures(images, np.array(seen_classes))["classes"] == {}


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
        (["--plot", "a.png"], "--plot a.png draws the steps of --ablate PRESET; say which preset"),
        (["--ablate", "w4a8", "--against", "w4a8"], "--against compares presets, --ablate measures one"),
        (["--ablate", "w4a8", "--quant", "w4a8"], "argument --quant: not allowed with argument --ablate"),
    ],
)
def test_options_that_mean_nothing_are_named(
    command: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([*command, *more])
    assert message in capsys.readouterr().err
