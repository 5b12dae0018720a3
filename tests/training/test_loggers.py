"""What loggers get: the whole config, the commit, every step, and the final figures; each run its own."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from intvit.torchvision_fix import ensure_torchvision
from intvit.training.entry import train
from tests.support.tiny_runs import rows, tiny, train_and_stop

ensure_torchvision()

from pytorch_lightning.loggers import Logger  # noqa: E402

OFFLINE = ["logger=wandb", "logger.wandb.offline=true", "callbacks.progress=none"]
CALIBRATION = ["schedule.float=null", "schedule.qat=null", "schedule.frozen=null"]


class Kept(Logger):
    """Keeps what it is given."""

    made: list["Kept"] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.hyperparameters: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.pictures: dict[str, Any] = {}
        Kept.made.append(self)

    name = version = "kept"

    def log_hyperparams(self, params: Any, *arguments: Any, **options: Any) -> None:
        self.hyperparameters = dict(params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.pictures[key] = images[0]


def test_a_logger_gets_the_resolved_config_the_commit_and_the_final_figures(tmp_path: Path) -> None:
    config = tiny("+logger.kept._target_=tests.training.test_loggers.Kept")
    summary = train(config, tmp_path)
    kept = Kept.made[-1]
    assert kept.hyperparameters == {**config, "commit": summary["commit"]}
    final = {key: value for _, metrics in kept.metrics for key, value in metrics.items() if key.startswith("final/")}
    assert final["final/integer/top1"] == summary["integer"]["top1"]
    assert final["final/float/top5"] == summary["float"]["top5"]
    assert sorted(kept.pictures) == ["final/float/confusion", "final/integer/confusion"]
    assert kept.pictures["final/integer/confusion"].size == (660, 594)
    assert not any("final/" in column for column in rows(tmp_path)[0])


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of every run of W&B that was finished: its id, config and summary."""
    runs: list[dict[str, Any]] = []
    finish = wandb.finish

    def watched(*arguments: Any, **options: Any) -> None:
        run = wandb.run
        assert run is not None
        runs.append({"id": run.id, "config": dict(run.config), "summary": dict(run.summary), **options})
        finish(*arguments, **options)

    monkeypatch.setattr(wandb, "finish", watched)
    return runs


@pytest.mark.usefixtures("own_wandb")
def test_runs_of_one_process_are_runs_of_their_own_in_wandb(tmp_path: Path, finished: list[dict[str, Any]]) -> None:
    for seed in (1, 2):
        train(tiny(*OFFLINE, *CALIBRATION, f"seed={seed}"), tmp_path / f"run{seed}")
    assert [run["id"] for run in finished] == ["run1", "run2"]
    assert [run["config"]["seed"] for run in finished] == [1, 2]
    assert [run["exit_code"] for run in finished] == [0, 0]
    for seed, run in enumerate(finished, 1):
        assert run["config"]["quant"]["softmax"]["family"] == "ivit"
        assert "final/integer/top1" in run["summary"]
        assert len(list((tmp_path / f"run{seed}" / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.usefixtures("own_wandb")
def test_a_resumed_run_is_the_same_run_in_wandb(tmp_path: Path, finished: list[dict[str, Any]]) -> None:
    train_and_stop(7, tiny(*OFFLINE), tmp_path / "run")
    train(tiny(*OFFLINE, "ckpt=last"), tmp_path / "run")
    assert [(run["id"], run["exit_code"]) for run in finished] == [("run", 1), ("run", 0)]
