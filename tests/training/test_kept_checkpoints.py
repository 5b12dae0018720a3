"""Which states of a run are kept, and how a finished run is extended."""

from pathlib import Path

import pytest
import torch

from intvit.errors import IntVitError
from intvit.evaluation.entry import evaluate
from intvit.training.entry import train
from tests.support.tiny_runs import composed, rows, state, tiny, train_and_stop

STEADY = ["schedule.qat=null", "schedule.frozen=null", "schedule.float.min_lr_ratio=1", "schedule.float.warmup=0"]
STEADY += ["callbacks.best=float/top1"]

SEVEN = ["schedule.float.epochs=null", "schedule.float.steps=7"]


def steps(folder: Path) -> dict[str, int]:
    found = (folder / "checkpoints").glob("*.ckpt")
    return {path.stem: torch.load(path, weights_only=True)["global_step"] for path in found}


def test_best_is_the_state_with_the_best_integers_though_float_was_better_before(tmp_path: Path) -> None:
    summary = train(tiny("schedule.float.epochs=3", "callbacks.keep_best=2", "callbacks.keep_every_epochs=4"), tmp_path)
    integer = {entry["step"]: entry["top1"] for entry in summary["history"] if entry["mode"] == "integer"}
    first, second = sorted(integer, key=lambda step: (-integer[step], step))[:2]
    assert steps(tmp_path) == {
        "last": 30,
        "best": first,
        **{f"step-{step}": step for step in {first, second, 20}},  # 20: after the fourth epoch
    }


def test_best_is_kept_inside_an_epoch_too_and_a_sanity_check_is_no_measurement(tmp_path: Path) -> None:
    often = ["+trainer.val_check_interval=2", "+trainer.num_sanity_val_steps=1", "callbacks.best=float/top1"]
    history = train(tiny(*STEADY, *often, "callbacks.keep_best=2", "schedule.float.epochs=2"), tmp_path)["history"]
    assert [entry["step"] for entry in history] == [2, 4, 7, 9]
    first, second = (entry["step"] for entry in sorted(history, key=lambda entry: (-entry["top1"], entry["step"]))[:2])
    assert steps(tmp_path) == {"last": 10, "best": first, f"step-{first}": first, f"step-{second}": second}


def test_best_of_a_float_model_and_none(tmp_path: Path) -> None:
    float_model = ["quant=fp32", "schedule.calibrate=null", "schedule.qat=null", "schedule.frozen=null"]
    summary = train(tiny(*float_model, "schedule.float.epochs=3"), tmp_path / "a")
    best = max(summary["history"], key=lambda entry: (entry["top1"], -entry["step"]))
    assert steps(tmp_path / "a") == {"last": 15, "best": best["step"]}
    train(tiny(*float_model, "callbacks.best=null"), tmp_path / "b")
    assert steps(tmp_path / "b") == {"last": 5}
    with pytest.raises(IntVitError, match=r"callbacks\.best=float/loss: expected auto, null or float/ or integer/"):
        train(tiny(*float_model, "callbacks.best=float/loss"), tmp_path / "c")


def test_a_resumed_run_keeps_the_same_states(tmp_path: Path) -> None:
    kept = ["callbacks.keep_best=2", "callbacks.keep_every_epochs=3"]
    train(tiny(*kept), tmp_path / "whole")
    train_and_stop(17, tiny(*kept), tmp_path / "stopped")
    train(tiny("ckpt=last", *kept), tmp_path / "stopped")
    assert steps(tmp_path / "stopped") == steps(tmp_path / "whole")


def test_a_finished_run_that_is_extended_takes_the_steps_of_one_long_run(tmp_path: Path) -> None:
    train(tiny(*STEADY, "schedule.float.epochs=1"), tmp_path / "short")
    longer = tiny(*STEADY, "schedule.float.epochs=3", f"ckpt={tmp_path / 'short'}")
    history = train(longer, tmp_path / "longer")["history"]
    # What the short run kept is in its folder: the best of the others is in this one.
    assert (
        steps(tmp_path / "longer")["best"]
        == max(history[1:], key=lambda entry: (entry["top1"], -entry["step"]))["step"]
    )
    train(tiny(*STEADY, "schedule.float.epochs=3"), tmp_path / "long")
    assert [row for row in rows(tmp_path / "long") if int(row["step"]) > 5] == [
        row for row in rows(tmp_path / "longer") if int(row["step"]) > 5
    ]
    expected, extended = state(tmp_path / "long"), state(tmp_path / "longer")
    assert [key for key in expected if not torch.equal(expected[key], extended[key])] == []


@pytest.mark.parametrize(
    ("short", "long", "message"),
    [
        (
            [],
            ["schedule.float.epochs=3"],
            r"step \d was phase float at lr .*, in this schedule it is phase float at lr",
        ),
        (["schedule.qat.epochs=1"], ["schedule.qat.epochs=2"], r"step \d was phase qat at lr .* it is phase qat at"),
        (
            [*STEADY, "schedule.float.epochs=null", "schedule.float.steps=7"],
            [*STEADY, "schedule.float.epochs=3"],
            "insid",
        ),
    ],
)
def test_an_extension_that_would_not_be_the_longer_run_is_refused(
    short: list[str], long: list[str], message: str, tmp_path: Path
) -> None:
    train(tiny(*short), tmp_path / "short")
    with pytest.raises(IntVitError, match=rf"{message}.*model\.weights=RUN starts a new run"):
        train(tiny(*long, f"ckpt={tmp_path / 'short'}"), tmp_path / "long")
    assert not (tmp_path / "long").exists()


def test_evaluation_exports_last_or_best_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    # The last epoch destroys what the second one had: the rate is high at the end.
    summary = train(tiny("schedule.frozen=null", "schedule.qat.lr=0.03", "schedule.qat.min_lr_ratio=1"), run)
    integer = [entry for entry in summary["history"] if entry["mode"] == "integer"]
    best = min(integer, key=lambda entry: (-entry["top1"], entry["step"]))
    for which, step, top1 in (("last", 15, summary["integer"]["top1"]), ("best", best["step"], best["top1"])):
        given = [f"ckpt={run}", f"which={which}", "runtimes=[numpy]", f"export.folder={tmp_path / which}"]
        figures = evaluate(composed(*given, config_name="evaluate"))
        assert f"{run}: {which}.ckpt, step {step}" in capsys.readouterr().out
        assert figures["qat"]["top1"] == pytest.approx(top1, abs=1e-3)
    with pytest.raises(IntVitError, match=r"which=best is of a run folder, but ckpt=.*last\.ckpt is no folder"):
        evaluate(composed(f"ckpt={run}/checkpoints/last.ckpt", "which=best", config_name="evaluate"))
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(IntVitError, match=r"holds no checkpoints/best\.ckpt: no validation of what is exported"):
        evaluate(composed(f"ckpt={run}", "which=best", config_name="evaluate"))
