"""evaluate.py on a tiny run: export, three executions of every image, figures, and what a mistake looks like."""

import errno
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intvit.evaluation.entry as entry
from intvit.config.run_files import read_config
from intvit.data.digits import digits_root
from intvit.errors import IntVitError
from intvit.evaluation.compare import MismatchError
from intvit.evaluation.entry import evaluate
from intvit.evaluation.overlays import chosen
from intvit.program import Constant, Program, load_checkpoint
from intvit.runtime import load_runtime
from intvit.training.entry import train
from intvit.training.run_folder import write_config
from tests.support.shared import shared_folder
from tests.support.tiny_runs import composed, tiny

ROOT = Path(__file__).parents[2]
ONLY_CALIBRATE = ["schedule.float=null", "schedule.qat=null", "schedule.frozen=null"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny("schedule.loss.distillation.alpha=0.5")
    return shared_folder(tmp_path_factory, "distilled", lambda folder: train(config, folder))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluated(*overrides: str) -> dict[str, Any]:
    return evaluate(composed(*overrides, config_name="evaluate"))


def test_figures_have_exactly_the_promised_form(run: Path, capsys: pytest.CaptureFixture) -> None:
    values = evaluated(f"ckpt={run}")
    assert values == json.loads((run / "evaluation.json").read_text())
    assert list(values) == ["data", "images", "float", "qat", "runtimes"]
    assert values["images"] == 45
    assert list(values["float"]) == list(values["qat"]) == ["top1", "top5"]
    assert list(values["runtimes"]) == ["torch", "numpy"]
    summary = json.loads((run / "summary.json").read_text())
    assert values["float"]["top1"] == pytest.approx(summary["float"]["top1"], abs=1e-4)
    assert values["qat"]["top1"] == pytest.approx(summary["integer"]["top1"], abs=1e-4)
    for figures in values["runtimes"].values():
        assert list(figures) == ["top1", "top5", "mismatches", "images_per_second"]
        assert figures["mismatches"] == 0
        assert {key: figures[key] for key in ("top1", "top5")} == values["qat"]
    table = capsys.readouterr().out
    assert "QAT, integer mode" in table
    assert "agreement" in table


def test_the_export_says_where_it_comes_from(run: Path) -> None:
    evaluated(f"ckpt={run}", "limit=2")
    program = load_checkpoint(run / "integer")
    assert program.classes == [str(digit) for digit in range(10)]
    assert program.provenance["config"]["quant"]["name"] == "ivit8"
    config = read_config(run)
    config["model"]["weights"] = config["schedule"]["loss"]["distillation"]["weights"] = (
        "/some/folder/float.safetensors"
    )
    config["data"] |= {"root": "/some/folder", "cache": "/some/folder"}
    write_config(run, config)
    evaluated(f"ckpt={run}", "limit=2", "data=digits")
    text = json.dumps(load_checkpoint(run / "integer").provenance)
    assert "float.safetensors" in text
    assert "folder" not in text
    assert program.provenance["measured"]["integer"]["top1"] >= 0


def test_an_export_folder_and_a_limit_can_be_chosen(run: Path, tmp_path: Path) -> None:
    values = evaluated(f"ckpt={run / 'checkpoints/last.ckpt'}", f"export.folder={tmp_path / 'out' / 'mine'}", "limit=7")
    assert values["images"] == 7
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mine", "evaluation.json"}
    assert not (run / "integer").exists()


def test_a_run_that_cannot_be_written_is_evaluated_elsewhere(run: Path, tmp_path: Path, monkeypatch) -> None:
    out, before = tmp_path / "out", sorted(run.rglob("*"))
    values = evaluated(f"ckpt={run}", f"evaluation.out={out}", "limit=2", "export=onnx")
    assert json.loads((out / "evaluation.json").read_text()) == values
    assert {path.name for path in out.iterdir()} == {"integer", "integer.onnx", "evaluation.json"}
    alone = evaluated(f"integer={out / 'integer'}", f"evaluation.out={tmp_path / 'alone'}", "limit=2")
    assert json.loads((tmp_path / "alone" / "integer.evaluation.json").read_text()) == alone
    assert sorted(run.rglob("*")) == before
    temporary_file = tempfile.TemporaryFile

    def refuse(dir: Path) -> Any:
        if Path(dir) == run:
            raise OSError(errno.EROFS, "Read-only file system")
        return temporary_file(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for given in (f"ckpt={run}", f"integer={run / 'integer'}"):
        with pytest.raises(IntVitError, match=r"run: cannot be written \(Read-only file system\); evaluation.out=DIR"):
            evaluated(given)
    assert sorted(run.rglob("*")) == before


def test_an_onnx_file_goes_beside_the_export_and_its_runtime_agrees(run: Path) -> None:
    values = evaluated(f"ckpt={run}", "export=onnx", "runtimes=[numpy,onnx]", "limit=40")
    assert (run / "integer.onnx").stat().st_size > 10_000
    assert values["runtimes"]["onnx"]["mismatches"] == 0


def test_images_that_are_not_square_from_training_to_the_runtimes(tmp_path: Path) -> None:
    train(tiny("data.image_size=[8,12]", "data.max_pixels=144", *ONLY_CALIBRATE), tmp_path / "run")
    values = evaluated(f"ckpt={tmp_path / 'run'}", "runtimes=[torch,numpy,onnx]")
    assert load_checkpoint(tmp_path / "run" / "integer").values["image"].shape == (3, 8, 12)
    assert {name: figures["mismatches"] for name, figures in values["runtimes"].items()} == dict.fromkeys(
        ("torch", "numpy", "onnx"), 0
    )
    assert evaluated(f"integer={tmp_path / 'run' / 'integer'}", "runtimes=[numpy]")["images"] == 45


def test_an_exported_checkpoint_alone_needs_neither_lightning_nor_timm(run: Path) -> None:
    whole = evaluated(f"ckpt={run}")
    script = (
        "import sys, runpy\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'pytorch_lightning', 'lightning_fabric', 'timm', 'torchvision'}:\n"
        "            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['evaluate.py', 'integer={run / 'integer'}']\n"
        f"runpy.run_path({str(ROOT / 'evaluate.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = json.loads((run / "integer.evaluation.json").read_text())
    assert list(alone) == ["data", "images", "runtimes"]
    for name, figures in alone["runtimes"].items():
        assert {**figures, "images_per_second": 0} == {**whole["runtimes"][name], "images_per_second": 0}


# ---------------------------------------------------------------- mutations: one multiplier off by one


def mutated(program: Program, operator: int) -> Program:
    """The program with other multipliers in one operator.

    The last one makes the int32 scores: one unit in one multiplier shows. Before it, the rounding to a few bits hides
    a unit of a 31-bit multiplier, so all of them grow by an eighth.
    """
    chosen = program.operators[operator]
    role = next(role for role in chosen.constants if role.startswith("multiplier"))
    name = chosen.constants[role]
    old = program.constants[name]
    array = old.array.astype(np.int64)
    array += 1 if chosen.output == program.output else abs(array) // 8
    array = np.minimum(array, 2**31 - 1) if old.bits == 32 else array
    constants = {**program.constants, name: Constant(array, old.bits, old.signed)}
    return Program(**{**vars(program), "constants": constants})


def with_multiplier(program: Program) -> list[int]:
    return [
        index
        for index, operator in enumerate(program.operators)
        if any(role.startswith("multiplier") for role in operator.constants)
    ]


@pytest.mark.parametrize("runtime", ["torch", "numpy"])
@pytest.mark.parametrize("position", [0, 3, -1], ids=["first", "middle", "last"])
def test_a_changed_multiplier_in_one_runtime_is_caught_and_its_operator_named(
    runtime: str, position: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def load(program: Program, name: str) -> Any:
        if name != runtime:
            return load_runtime(program, name)
        operator = with_multiplier(program)[position]
        names.append(program.operators[operator].name)
        return load_runtime(mutated(program, operator), name)

    monkeypatch.setattr(entry, "load_runtime", load)
    with pytest.raises(MismatchError) as caught:
        evaluated(f"ckpt={run}", "limit=40")
    assert f"runtime {runtime}: scores differ on " in str(caught.value)
    assert f"first at operator {names[0]} (" in str(caught.value)
    figures = json.loads((run / "evaluation.json").read_text())["runtimes"]
    assert figures[runtime]["mismatches"] > 0
    assert figures[{"torch": "numpy", "numpy": "torch"}[runtime]]["mismatches"] == 0


def test_a_change_in_the_export_itself_is_caught_against_the_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        entry, "load_runtime", lambda program, name: load_runtime(mutated(program, with_multiplier(program)[-1]), name)
    )
    with pytest.raises(MismatchError, match=r"runtime torch: .* against qat\); runtime numpy: .* against qat\)"):
        evaluated(f"ckpt={run}", "limit=20")


# ---------------------------------------------------------------- mistakes


def test_nothing_to_evaluate_says_what_to_pass() -> None:
    with pytest.raises(IntVitError, match=r"^give ckpt=RUN_FOLDER .* or integer=FOLDER"):
        evaluated()


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=r"is not a folder"):
        evaluated(f"integer={tmp_path / 'absent'}")
    with pytest.raises(IntVitError, match=r"holds no program.json"):
        evaluated(f"integer={tmp_path}")
    with pytest.raises(IntVitError, match=r"holds no config.yaml: give the folder of a run"):
        evaluated(f"ckpt={tmp_path}")
    with pytest.raises(IntVitError, match=r"no such folder or file"):
        evaluated(f"ckpt={tmp_path / 'absent'}")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_checkpoint_is_one_line_and_writes_nothing(run: Path) -> None:
    path = run / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntVitError, match=r"last.ckpt is not a readable checkpoint"):
        evaluated(f"ckpt={run}")
    assert not (run / "integer").exists()
    assert not (run / "evaluation.json").exists()


def test_float_operators_and_float_runs_are_refused_by_name(tmp_path: Path) -> None:
    train(tiny("quant/gelu=float", *ONLY_CALIBRATE), tmp_path / "gelu")
    with pytest.raises(IntVitError, match=r"blocks.0.mlp.act"):
        evaluated(f"ckpt={tmp_path / 'gelu'}")
    assert not (tmp_path / "gelu" / "integer").exists()
    train(tiny("quant=fp32", *ONLY_CALIBRATE), tmp_path / "float")
    with pytest.raises(IntVitError, match=r"float run \(quant=fp32\): nothing to export"):
        evaluated(f"ckpt={tmp_path / 'float'}")


def test_data_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=r"data=imagenette has 1000 classes, the model 10"):
        evaluated(f"ckpt={run}", "data=imagenette", f"data.root={tmp_path}")
    assert not (run / "integer").exists()


def test_data_with_another_kind_of_labels_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=r"data=masks has data.labels=masks, the model wants classes: choose"):
        evaluated(f"ckpt={run}", "data=masks", "data.num_classes=10", f"data.root={tmp_path}")
    assert not (run / "integer").exists()


def test_an_unknown_runtime_is_refused_before_any_work(run: Path) -> None:
    with pytest.raises(IntVitError, match=r"^runtimes: no runtime abacus; there are cuda, native, numpy, onnx, torch$"):
        evaluated(f"ckpt={run}", "runtimes=[numpy,abacus]")
    assert not (run / "integer").exists()


@pytest.mark.parametrize(("count", "of", "expected"), [(2, 4, [1, 3]), (9, 4, [0, 1, 2, 3]), (3, 3, [0, 1, 2])])
def test_overlays_are_of_as_many_photos_as_asked_for_or_all(count: int, of: int, expected: list[int]) -> None:
    assert chosen(count, of) == expected


def test_skipped_samples_are_counted_and_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(IntVitError, match=r"sample 'digit\d+': broken image .*data.on_bad_sample=skip"):
        evaluated(f"ckpt={run}", f"data.root={damaged_digits(tmp_path)}")
    values = evaluated(
        f"ckpt={run}", f"data.root={tmp_path / 'damaged'}", "data.on_bad_sample=skip", "data.bad_sample_budget=1"
    )
    assert (values["images"], values["skipped"]) == (44, 1)
    assert "skipped 1 bad samples, which no figure counts" in capsys.readouterr().out


def damaged_digits(folder: Path) -> Path:
    """The digits with one validation image whose first bytes are gone."""
    target = Path(shutil.copytree(digits_root(), folder / "damaged"))
    shard = target / "val-000000.tar"
    with tarfile.open(shard) as archive:
        image = archive.getmembers()[5]
    content = bytearray(shard.read_bytes())
    content[image.offset_data : image.offset_data + 8] = bytes(8)
    shard.write_bytes(content)
    return target


@pytest.mark.parametrize("device", ["nope", "meta", "cuda:99"])
def test_a_device_that_is_not_here_is_named(run: Path, device: str) -> None:
    with pytest.raises(IntVitError, match=f"device={device}: not a device of this machine; expected auto, cpu or cuda"):
        evaluated(f"ckpt={run}", f"device={device}")


def test_one_runtime_without_brackets_is_told_of_them() -> None:
    with pytest.raises(IntVitError, match=r"^runtimes=numpy: expected a list of texts; say runtimes=\[numpy\]$"):
        evaluated("integer=x", "runtimes=numpy")
