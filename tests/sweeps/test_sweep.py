"""`intvit sweep` with a stand-in for train.py: nothing is lost or run twice, whatever interrupts it."""

import csv
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from intvit.commands.sweep import main
from intvit.errors import IntVitError
from intvit.sweeps.space import Space
from tests.support.slurm_cluster import wait_until

# Five steps, each written down once it is done; a second start goes on, a finished run only says so.
STAND_IN = """
import json, sys, time
from pathlib import Path
values = dict(argument.split("=", 1) for argument in sys.argv[1:])
folder = Path(values["hydra.run.dir"])
folder.mkdir(parents=True, exist_ok=True)
with (folder.parent / "starts").open("a") as file: file.write(folder.name + "\\n")
if (folder / "summary.json").exists(): sys.exit("finished")
if values.get("fail") == "true": sys.exit("error: no such thing")
steps = folder / "steps"
for step in range(len(steps.read_text().split()) if steps.exists() else 0, 5):
    time.sleep(float(values["pause"]))
    with steps.open("a") as file: file.write(f"{step} ")
    rows = [f"{done},{float(values['x'])}" for done in range(step + 1)]
    (folder / "metrics.csv").write_text("\\n".join(["step,integer/top1", *rows, ""]))
(folder / "summary.json").write_text(json.dumps({"integer": {"top1": float(values["x"])}}))
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return f"{sys.executable} {script}"


def sweep(tmp_path: Path, command: str, *arguments: str) -> int:
    return main(["s", "--outputs", str(tmp_path), "--command", command, *arguments])


def table(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "s" / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def starts(tmp_path: Path) -> Counter[str]:
    path = tmp_path / "s" / "starts"
    return Counter(path.read_text().split() if path.is_file() else [])


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_sweep_killed_twice_loses_no_trial_and_runs_none_twice(storage: str, tmp_path: Path, command: str) -> None:
    arguments = [
        "-m",
        "intvit.commands",
        "sweep",
        "s",
        "--outputs",
        str(tmp_path),
        "--command",
        command,
        "--trials",
        "6",
    ]
    arguments += ["--parallel", "2", "pause=0.2", "x=interval(0,100)"]
    if storage == "sqlite":
        arguments += ["--storage", f"sqlite:///{tmp_path / 'study.db'}"]
    for enough in (2, 5):
        controller = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        wait_until(lambda count=enough: sum(starts(tmp_path).values()) >= count, 60)
        controller.send_signal(signal.SIGKILL)
        controller.wait()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    every = table(tmp_path)
    rows = [row for row in every if row["x"]]  # one that a kill met while it was drawn has no parameters
    assert len(rows) == 6
    scores = [float(row["integer/top1"]) for row in rows]
    assert scores == sorted(scores, reverse=True) == [float(row["x"]) for row in rows]
    assert len(set(scores)) == 6  # a restarted search does not draw its first parameters again
    for row in rows:
        assert (tmp_path / "s" / f"s-{int(row['trial']):04d}" / "steps").read_text().split() == list("01234")
    assert max(starts(tmp_path).values()) <= 3
    assert sum(starts(tmp_path).values()) <= 6 + 2 * 2  # two ran at each kill
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
    assert table(tmp_path) == every  # nothing left to do


def test_a_grid_runs_every_combination_once(tmp_path: Path, command: str, capsys: pytest.CaptureFixture) -> None:
    assert sweep(tmp_path, command, "--grid", "--parallel", "3", "pause=0", "x=1,2,3", "y=range(0,2)") == 0
    assert sorted((row["x"], row["y"]) for row in table(tmp_path)) == sorted((x, y) for x in "123" for y in "01")
    assert set(starts(tmp_path).values()) == {1}
    assert capsys.readouterr().out.count("│") > 0
    with pytest.raises(IntVitError, match=r"^sweep s began with overrides .*: give another NAME$"):
        sweep(tmp_path, command, "--grid", "pause=0", "x=1,2")
    assert sweep(tmp_path, command) == 0  # without overrides: as it was


def test_equal_parameters_are_run_once(tmp_path: Path, command: str) -> None:
    assert sweep(tmp_path, command, "--trials", "6", "pause=0", "x=1,2") == 0
    assert len(table(tmp_path)) == 6
    assert 1 <= len(starts(tmp_path)) <= 2


def test_a_trial_below_the_median_is_pruned(tmp_path: Path, command: str) -> None:
    # The median pruner begins with the sixth trial.
    assert sweep(tmp_path, command, "--grid", "--prune", "pause=0.3", "x=9,8,7,6,5,1", "--parallel", "1") == 0
    assert [row["integer/top1"] for row in table(tmp_path)].count("pruned") == 1
    assert (tmp_path / "s" / "s-0005" / "steps").read_text().split() != list("01234")


def test_a_wrong_command_ends_the_sweep_and_says_why(tmp_path: Path, command: str) -> None:
    with pytest.raises(IntVitError, match=r"the first 3 trials failed; the last one said: error: no such thing"):
        sweep(tmp_path, command, "fail=true", "x=interval(0,1)")
    assert sum(starts(tmp_path).values()) == 3


def test_ctrl_c_leaves_the_trials_to_the_next_call(tmp_path: Path, command: str) -> None:
    arguments = [
        sys.executable,
        "-m",
        "intvit.commands",
        "sweep",
        "s",
        "--outputs",
        str(tmp_path),
        "--command",
        command,
    ]
    controller = subprocess.Popen([*arguments, "--trials", "1", "pause=1", "x=interval(0,1)"], stdout=subprocess.PIPE)
    wait_until(lambda: bool(starts(tmp_path)), 60)
    controller.send_signal(signal.SIGINT)
    assert b"interrupted; the same command goes on" in controller.communicate(timeout=30)[0]
    assert controller.returncode == 128 + signal.SIGINT
    assert not (tmp_path / "s" / "s-0000" / "summary.json").exists()


def test_trials_are_told_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys; print(os.environ['WANDB_RUN_GROUP'], *sys.argv[1:], flush=True); sys.exit('stop')"
    )
    with pytest.raises(IntVitError, match="the last one said: stop"):
        sweep(tmp_path, f"{sys.executable} {script}", "fixed=1", "x=interval(0,1)")
    group, fixed, x, folder, ckpt = (tmp_path / "s" / "s-0000.log").read_text().splitlines()[0].split()
    assert (group, fixed, folder, ckpt) == ("s", "fixed=1", f"hydra.run.dir={tmp_path}/s/s-0000", "ckpt=last")
    assert x.startswith("x=0.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        IntVitError, match=r"launch/slurm.sbatch is not here: start the sweep in the repository's folder"
    ):
        main(["other", "--slurm=--nodes=1", "x=1,2"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("quant/bits=true8,r16", CategoricalDistribution(("true8", "r16"))),
        ("x=choice(1,2.5,true)", CategoricalDistribution(("1", "2.5", "True"))),
        ("x=range(1,10,3)", IntDistribution(1, 7, step=3)),
        ("x=interval(1,2)", FloatDistribution(1.0, 2.0)),
        ("x=tag(log,interval(1e-6,1e-4))", FloatDistribution(1e-6, 1e-4, log=True)),
        ("x=int(interval(1,8))", IntDistribution(1, 8)),
    ],
)
def test_sweep_syntax_of_hydra_is_a_distribution(override: str, expected: Any) -> None:
    space = Space(["seed=3", override])
    assert list(space.distributions.values()) == [expected]
    assert space.fixed == ["seed=3"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "nothing to search"),
        (["x=glob(*)"], "takes A,B or choice, range or interval"),
        (["x=tag(log,interval(0,1))"], r"x=tag\(log,interval\(0,1\)\): "),
        (["x=interval(0"], r"x=interval\(0: "),
    ],
)
def test_what_cannot_be_searched_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(IntVitError, match=message) as caught:
        Space(overrides)
    assert "\n" not in str(caught.value)


def test_a_grid_needs_listed_values() -> None:
    with pytest.raises(IntVitError, match=r"x: a grid needs listed values"):
        list(Space(["x=interval(0,1)"]).grid())


def test_another_sweep_of_the_name_is_kept_out(tmp_path: Path, command: str) -> None:
    (tmp_path / "s").mkdir()
    script = (
        "import sys, time; from pathlib import Path; from intvit.claims import holding\n"
        "with holding(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(IntVitError, match="another process is at work in it"):
            sweep(tmp_path, command, "x=1,2")
    finally:
        other.kill()
        other.communicate()
