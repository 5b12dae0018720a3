"""Every preset composes and validates; mistakes in a config are one line; a run's identity is its experiment."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from intvit import __version__
from intvit.config.identity import differences, identity_hash
from intvit.config.presets import config_directory
from intvit.config.values import build
from intvit.errors import IntVitError, one_line
from intvit.evaluation.config import EvaluateConfig
from intvit.training.config import train_config
from tests.support.tiny_runs import composed

ROOT = Path(__file__).parents[2]
PRESETS = sorted(
    (path.parent.relative_to(config_directory()).as_posix(), path.stem)
    for path in config_directory().glob("**/*.yaml")
    if path.parent != config_directory() and path.stem != "base"  # what the others of a group share
)

# What some presets need beside them.
COMPANIONS = {
    ("data", "camvid"): ["task=segmentation"],
    ("data", "masks"): ["task=segmentation", "data.num_classes=3"],
    ("data/train_transform", "scene"): ["task=segmentation", "data=camvid"],
    ("task", "segmentation"): ["data=camvid"],
    ("experiment", "camvid_deit_t"): ["model.weights=FILE"],
}


@pytest.mark.parametrize(("group", "name"), PRESETS, ids=lambda value: value)
def test_every_preset_composes_and_validates(group: str, name: str) -> None:
    if group == "export":
        evaluation = build(EvaluateConfig, composed(f"{group}={name}", config_name="evaluate"))
        assert evaluation.export.onnx == (name == "onnx")
        return
    if (group, name) == ("model", "timm"):
        return  # has no name of its own: tests/config/test_timm.py
    config = train_config(composed(f"{group}={name}", *COMPANIONS.get((group, name), ())))
    if group in ("model", "quant", "data"):
        assert getattr(config, group).name == name


def test_single_parts_of_a_quant_preset_swap_in_one_word() -> None:
    config = train_config(composed("quant=ivit8", "quant/gelu=ibert", "quant/layernorm=exact", "quant/bits=true8"))
    assert (config.quant.softmax.family, config.quant.gelu.family, config.quant.layernorm.family) == (
        "ivit",
        "ibert",
        "exact",
    )
    assert config.quant.bits.residual == 8


def test_evaluate_config_validates_with_and_without_data() -> None:
    assert build(EvaluateConfig, composed(config_name="evaluate")).data["root"] is None
    assert build(EvaluateConfig, composed("export=onnx", config_name="evaluate")).export.onnx
    chosen = build(EvaluateConfig, composed("data=imagenette", "data.root=somewhere", config_name="evaluate"))
    assert chosen.data["name"] == "imagenette"
    assert chosen.data["root"] == "somewhere"
    assert chosen.data["eval_batch_size"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.widht=16", "model.widht: unknown key; did you mean width?"),
        ("schedule.qat.epochs=many", "schedule.qat.epochs=many: expected an integer or null"),
        ("schedule.qat.epochs=null", "schedule.qat: give either epochs or steps"),
        ("schedule.calibrate=null", "schedule.calibrate=null: integer phases"),
        ("schedule.loss.erasing=2", "schedule.loss.erasing=2.0: expected 0 to 1"),
        ("model.num_classes=3", "model.num_classes=3 but data.num_classes=10"),
        ("quant.softmax.family=cubic", "quant.softmax.family=cubic: unknown"),
        ("callbacks.progress=loud", "callbacks.progress=loud: unknown, expected one of auto, bar, lines, none"),
        ("fresh=1", "fresh=1: expected true or false"),
        ("optimizer.gradient_clip=-1", "optimizer.gradient_clip=-1.0: expected above 0"),
        ("optimizer.gradient_clip=nan", "optimizer.gradient_clip=nan: expected above 0"),
        ("schedule.ema_decay=1.5", "schedule.ema_decay=1.5: expected above 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        train_config(composed(override))
    line = one_line(caught.value)
    assert line is not None
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("quant=ivit9", "error: no preset quant=ivit9; quant has fp32, "),
        ("quant/gelu=tanh", "error: no preset quant/gelu=tanh; quant/gelu has "),
        (
            "model.patchsize=4",
            "error: model.patchsize: no such key; did you mean patch_size? `--cfg job` prints those that there are, "
            "+model.patchsize=4 adds one",
        ),
        ("logger=null", "error: logger=null: expected one of csv, mlflow, tensorboard, wandb; without logger= it is "),
        ("=3", "error: =3: nothing stands before =; say KEY=VALUE"),
        (
            "quant.overrides={blocks.0.*: {compile: 1}}",
            "error: quant.overrides: no such key; `--cfg job` prints those that there are, "
            "+quant.overrides={blocks.0.*: {compile: 1}} adds one",
        ),
        (
            "+quant.overrides={'blocks.0.*': {compile: 1}}",
            "error: no viable alternative at input '{'blocks.0.*''; keys inside braces go without quotes",
        ),
        (
            "data.root=my photos (1)",
            "error: mismatched input ' (' expecting <EOF>; a value with brackets, commas, accents or = ",
        ),
        ("seed", "error: "),
    ],
)
def test_a_wrong_command_line_is_one_line_and_leaves_nothing(argument: str, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), argument], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_a_run_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "data=imagenet", "data.root=nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_documented_seed_of_an_array_of_jobs_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "launch" / "README.md").read_text()
    override = re.search(r"'(seed=.+?SLURM_ARRAY_TASK_ID.+?)'", text)[1]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert composed(override)["seed"] == 3


@pytest.mark.parametrize(("script", "foreign"), [("train.py", "runtimes"), ("evaluate.py", "optimizer")])
def test_help_is_about_the_command(script: str, foreign: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"python {script} ckpt=" in done.stdout or f"python {script} model=" in done.stdout
    assert "ckpt: null" in done.stdout
    assert foreign not in done.stdout


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "override",
    [
        "ckpt=last",
        "fresh=true",
        "name=other",
        "logger=wandb",
        "trainer.devices=4",
        "data.root=elsewhere",
        "data.workers=3",
        "data.cache=elsewhere",
        "data.cache_gb=3",
        "data.retries=3",
        "callbacks.progress=none",
        "trainer.profiler=simple",
        "logger=tensorboard",
        "+callbacks.rate._target_=pytorch_lightning.callbacks.LearningRateMonitor",
    ],
)
def test_identity_ignores_where_and_how_a_run_is_watched(override: str) -> None:
    assert identity_hash(composed(override)) == identity_hash(composed())


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "model=deit_t",
        "quant.bits.weight=7",
        "quant/gelu=ibert",
        "data.batch_size=7",
        "schedule.qat.lr=1e-3",
        "optimizer.gradient_clip=1",
        "trainer.precision=bf16-mixed",
        "trainer.limit_train_batches=2",
        "+trainer.reload=1",
        "callbacks=early_stopping",
        "+callbacks.mine._target_=package.Mine",
        "debug=fast",
    ],
)
def test_identity_changes_with_the_experiment(override: str) -> None:
    assert identity_hash(composed(override)) != identity_hash(composed())
    assert len(differences(composed(), composed(override))) >= 1


# ---------------------------------------------------------------- where the presets are


def test_presets_are_found_in_the_checkout() -> None:
    assert config_directory() == ROOT / "conf"


def test_an_installed_wheel_has_its_presets_and_does_without_a_compiler(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "constraints.txt", "train.py"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheels = tmp_path / "wheels"
    subprocess.run(
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", wheels, source],
        env={**os.environ, "CC": "no-compiler", "CXX": "no-compiler"},
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("intvit-*.whl")
    installed = tmp_path / "installed"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel], check=True, capture_output=True
    )
    script = (
        "import intvit.config.presets as c; folder = c.config_directory(); "
        "print(folder); print(len(list(folder.glob('**/*.yaml')))); "
        "from intvit.runtime.native.runtime import supported; print(*supported())"
    )
    # -P and PYTHONPATH: the wheel's package comes before the editable install's.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    folder, count, *runtimes = done.stdout.split()
    assert runtimes == []
    assert (installed / "intvit" / "runtime" / "native" / "library.cpp").is_file()
    assert Path(folder) == installed / "intvit" / "conf"
    assert int(count) == len(list((ROOT / "conf").glob("**/*.yaml")))
    assert (installed / "intvit" / "reports" / "report.html").is_file()
    assert (installed / "intvit" / "py.typed").is_file()
    (stated,) = distributions(path=[str(installed)])
    assert stated.version == __version__
    assert "Issues, https://github.com/intvit/intvit/issues" in stated.metadata.get_all("Project-URL")


def test_a_missing_folder_of_presets_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("intvit.config.presets.__file__", str(tmp_path / "a" / "b" / "c" / "presets.py"))
    with pytest.raises(IntVitError, match="install intvit again"):
        config_directory()


def test_home_in_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = composed("data.root='~/photos'", "+data.more=['$HOME/x', 'a~/b']")["data"]
    assert (config["root"], config["more"]) == (f"{tmp_path}/photos", [f"{tmp_path}/x", "a~/b"])
    small = ["+model.width=16", "+model.depth=1", "+model.heads=2", "debug=fast", "callbacks.progress=none"]
    command = [sys.executable, ROOT / "train.py", "hydra.run.dir=~/run", *small, "data.cache=$HOME/cache"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "run" / "summary.json").is_file()
    assert not (tmp_path / "~").exists()
