"""The launch files say what train.py understands, and a multirun does not start ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from intvit.training.config import train_config
from tests.support.tiny_runs import TINY, composed

ROOT = Path(__file__).parents[2]


def test_the_agent_of_a_wandb_sweep_calls_train_py_with_overrides_that_compose() -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((ROOT / "launch" / "wandb_sweep.yaml").read_text())
    drawn = {}
    for key, choice in sweep["parameters"].items():
        drawn[key] = {"value": choice.get("value") or choice.get("values", [choice.get("min")])[0]}
    arguments = utils.create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    assert utils.create_sweep_command(sweep["command"])[-1] == "${args_no_hyphens}"
    assert (ROOT / sweep["program"]).is_file()
    fixed = [part for part in sweep["command"] if "=" in part]
    config = train_config(composed(*fixed, *arguments))
    assert (config.model.name, config.quant.name, config.ckpt) == ("deit_t", "ivit8", "last")
    assert config.logger.wandb is not None
    assert config.quant.bits.residual == 8
    assert config.schedule.qat is not None
    assert config.schedule.qat.lr == 1e-6


@pytest.mark.parametrize("script", ["slurm.sbatch", "torchrun.sh", "gpu_check.sh"])
def test_launch_files_are_valid_shell(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)


def test_torchrun_sh_starts_ranks_that_train_together(tmp_path: Path) -> None:
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    tiny = [part for part in TINY if not part.startswith("schedule")]
    command = [ROOT / "launch" / "torchrun.sh", "trainer=ddp_cpu", "schedule=calibrate", *tiny]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GPUS": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs").glob("*/summary.json"))) == 1


@pytest.mark.parametrize(
    ("overrides", "ranks"), [(["trainer=cpu", "trainer.devices=2"], None), (["trainer=ddp_cpu"], "2")]
)
def test_a_multirun_of_several_ranks_is_refused(overrides: list[str], ranks: str | None, tmp_path: Path) -> None:
    environment = dict(os.environ)
    if ranks is not None:
        environment |= {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": ranks, "GROUP_WORLD_SIZE": "1"}
    command = [sys.executable, ROOT / "train.py", "-m", "seed=1,2", *overrides]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: several ranks in one multirun: each would go through the sweep by itself" in done.stderr
    assert "python train.py -m hydra/launcher=slurm trainer=ddp" in done.stderr
    assert not list(tmp_path.glob("outputs/*/config.yaml"))


def test_a_job_of_a_multirun_that_fails_or_runs_out_of_time_is_named_and_the_others_run(tmp_path: Path) -> None:
    small = ["+model.width=16", "+model.depth=1", "+model.heads=2", "debug=fast", "callbacks.progress=none"]
    # The last job goes on with the third one's run.
    jobs = ["quant.bits.weight=9,8", "trainer.max_time='00:00:00:00',null", "ckpt=last"]
    command = [sys.executable, ROOT / "train.py", "-m", *small, *jobs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (finished,) = tmp_path.glob("outputs/*/summary.json")
    said = done.stdout.splitlines()[-4:]
    failed = "quant.bits.weight=9 trainer.max_time=null: failed: quant.bits.weight=9: expected 2 to 8"
    assert said[1].startswith(failed)
    assert said[2].endswith(f": out of time, {finished.parent}")
    assert said[3] == f"quant.bits.weight=8 trainer.max_time=null: finished, {finished.parent}"
    last = "error: 2 of 4 jobs failed, named above; the same command with ckpt=last runs what is left\n"
    assert done.stderr.endswith(last)
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"multirun.yaml", finished.parent.name}
