"""On a real SLURM: DDP over two nodes, jobs requeued at the end of their time, multiruns as arrays, sweeps as jobs."""

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from intvit.training.entry import train
from tests.support.forked_ranks import run_ranks
from tests.support.slurm_cluster import missing_programs, slurm_cluster, wait_until
from tests.support.tiny_runs import TINY, composed, rows, state

ROOT = Path(__file__).parents[2]
PRESETS = ["trainer=ddp_cpu", *TINY, "data.batch_size=16", "schedule.frozen=null"]
LONG = [*PRESETS, "schedule.float.epochs=12", "callbacks.progress=lines"]  # to interrupt
# One core a task; the shipped file asks for GPUs.
SMALL = ["--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
LIMIT = 90.0  # seconds that anything may take

# One cluster serves the whole file, in the worker that starts ranks.
pytestmark = [
    pytest.mark.xdist_group("ranks"),
    pytest.mark.skipif(bool(missing_programs()), reason=f"no SLURM on this machine: {missing_programs()} not found"),
]


@pytest.fixture(scope="module", autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as config,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SLURM_CONF", str(config))
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


class Job:
    """A job of launch/slurm.sbatch, on two nodes, in run folder `folder / "run"`."""

    def __init__(self, folder: Path, overrides: list[str], *options: str) -> None:
        self.run, self._log = folder / "run", folder / "log"
        command = ["sbatch", "--parsable", "--nodes=2", *SMALL, f"--output={self._log}", *options]
        command += ["launch/slurm.sbatch", *overrides, f"hydra.run.dir={self.run}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    def log(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""

    def goes_on(self) -> list[int]:
        """Steps at which the run was resumed."""
        return [int(step) for step in re.findall(r"goes on at step (\d+)", self.log())]

    def trained(self, steps: int) -> bool:
        metrics = self.run / "metrics.csv"
        return metrics.is_file() and sum(bool(row["train/loss"]) for row in rows(self.run)) >= steps

    def ended(self) -> bool:
        listed = subprocess.run(["squeue", "-h", "-j", self.number], capture_output=True, text=True)
        return not listed.stdout.strip()

    def wait(self) -> str:
        wait_until(self.ended, LIMIT, self.log)
        print(self.log())
        return self.log()


def train_rank(rank: int, config: dict, folder: Path) -> None:
    train(config, folder)


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_job_on_two_nodes_is_requeued_and_trains_what_it_would_have_trained(times: int, tmp_path: Path) -> None:
    job = Job(tmp_path, LONG)
    for requeued in range(times):
        # A few steps further than the last time; where in a step the signal comes is left to chance.
        enough = 3 + sum(job.goes_on()[-1:])
        wait_until(lambda steps=enough: job.trained(steps), LIMIT, job.log)
        subprocess.run(["scancel", "--signal=USR1", job.number], check=True)
        wait_until(lambda count=requeued + 1: len(job.goes_on()) == count, LIMIT, job.log)
    log = job.wait()
    assert f"job {job.number} on 127.0.0.[1-2], requeued {times} times" in log
    assert log.count(f"job {job.number} is requeued") == times
    assert [0, *job.goes_on()] == sorted({0, *job.goes_on()})
    ranks = composed(*LONG, "trainer.devices=2", "callbacks.progress=none")
    assert run_ranks(train_rank, ranks, tmp_path / "whole", log=tmp_path / "log2", limit=LIMIT) == [0, 0]
    assert rows(job.run) == rows(tmp_path / "whole")
    expected, resumed = state(tmp_path / "whole"), state(job.run)
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []


def test_a_multirun_is_an_array_whose_jobs_requeue_themselves(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0"]
    command += ["hydra.launcher.cpus_per_task=1", "seed=1,2", "name=array", *LONG, "schedule.float.epochs=8"]
    with (tmp_path / "log").open("wb") as log:
        sweep = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    outputs, jobs = tmp_path / "outputs", tmp_path / "outputs" / ".submitit"

    def printed() -> str:
        return "".join(path.read_text() for path in [tmp_path / "log", *sorted(jobs.glob("*/*_0_log.*"))])

    def begun() -> list[str]:
        return [path.parent.name for path in jobs.glob("*_1/*_0_log.out") if "epoch 1" in path.read_text()]

    wait_until(lambda: bool(begun()), LIMIT, printed)
    subprocess.run(["scancel", "--signal=USR2", begun()[0]], check=True)
    assert sweep.wait(LIMIT) == 0, printed()
    assert f"job {begun()[0]} is requeued" in printed()
    assert printed().count("goes on at step") == 1
    assert len(list(outputs.glob("array-*/summary.json"))) == 2
    table = [sys.executable, "-m", "intvit.commands", "results", *map(str, outputs.iterdir()), "--csv", "results.csv"]
    subprocess.run(table, cwd=tmp_path, check=True)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert sorted(row["seed"] for row in csv.DictReader(file)) == ["1", "2"]


@pytest.mark.slow
def test_the_time_limit_requeues_a_job_again_and_again(tmp_path: Path) -> None:
    # SLURM counts in minutes: the signal comes 45 to 105 seconds after the start.
    job = Job(tmp_path, [*LONG, "schedule.float.epochs=100000"], "--time=2", "--signal=USR1@15")
    wait_until(lambda: len(job.goes_on()) == 2 and job.trained(job.goes_on()[1] + 1), 600, job.log)
    subprocess.run(["scancel", job.number], check=True)
    log = job.wait()
    assert log.count(f"job {job.number} is requeued") == 2
    steps = [int(row["step"]) for row in rows(job.run) if row["train/loss"]]
    assert steps == list(range(len(steps)))
    assert len(steps) > job.goes_on()[1] > job.goes_on()[0] > 0


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, [*LONG, "schedule.float.epochs=1000"])
    wait_until(lambda: job.trained(3), LIMIT, job.log)
    ranks = subprocess.run(["pgrep", "-f", f"train.py .*{job.run}"], capture_output=True, text=True).stdout.split()
    processes = [int(rank) for rank in ranks if b"python" in Path(f"/proc/{rank}/cmdline").read_bytes().split(b"\0")[0]]
    os.kill(processes[-1], signal.SIGKILL)
    wait_until(job.ended, 60, job.log)
    assert not (job.run / "summary.json").exists()


@pytest.mark.slow
def test_trials_of_a_sweep_are_jobs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "intvit.commands",
        "sweep",
        "jobs",
        "--grid",
        "--parallel=2",
        "--outputs",
        tmp_path,
    ]
    command += [f"--slurm={' '.join(['--nodes=1', *SMALL])}", "quant=lut8,ivit8", *PRESETS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "jobs").glob("jobs-*/summary.json"))) == 2
