"""What defines an experiment: keys that are younger than a run folder don't move it."""

import pytest

from intvit.config import identity
from tests.support.tiny_runs import composed

OLD = {"model": {"name": "deit_t"}, "trainer": {"precision": "32-true"}, "seed": 0}


def test_a_younger_key_moves_a_run_only_where_it_says_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(identity.YOUNGER, "model", {"head": "keep"})
    usual = {**OLD, "model": {"name": "deit_t", "head": "keep"}}
    new = {**OLD, "model": {"name": "deit_t", "head": "fresh"}}
    assert identity.identity_hash(usual) == identity.identity_hash(OLD)
    assert identity.identity_hash(new) != identity.identity_hash(OLD)
    assert identity.differences(OLD, usual) == []
    assert identity.differences(OLD, new) == ["model.head: None -> fresh"]


def test_a_run_from_before_there_were_tasks_is_read_and_found() -> None:
    now = composed("model=deit_t", "data=imagenet")
    old = {key: value for key, value in now.items() if key != "task"}
    old["model"] = {key: value for key, value in now["model"].items() if key != "dense"}
    masks = ("labels", "ignore_index", "fit", "overlap", "palette")
    old["data"] = {key: value for key, value in now["data"].items() if key not in masks}
    assert identity.with_younger(old) == now
    assert identity.identity_hash(old) == identity.identity_hash(now)
    assert "task" not in identity.identity(now)
    segments = composed("task=segmentation", "data=camvid")
    assert identity.identity(segments)["task"] == {"name": "segmentation", "head": "linear"}


def test_a_run_older_than_the_steps_of_calibration_is_read_and_found() -> None:
    now = composed("quant=lut8")
    quant = {key: value for key, value in now["quant"].items() if key != "calibration"}
    bits = {key: value for key, value in quant["bits"].items() if key not in identity.YOUNGER["quant.bits"]}
    old = {**now, "quant": {**quant, "bits": bits}}
    assert identity.with_younger(old)["quant"] == now["quant"]
    assert identity.identity_hash(old) == identity.identity_hash(now)
    full = composed("quant=lut8", "quant.calibration.rounding=gptq")
    assert identity.identity_hash(full) != identity.identity_hash(now)
