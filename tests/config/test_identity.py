"""What defines an experiment: keys that are younger than a run folder don't move it."""

import pytest

from intvit.config import identity

OLD = {"model": {"name": "deit_t"}, "trainer": {"precision": "32-true"}, "seed": 0}


def test_a_younger_key_moves_a_run_only_where_it_says_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(identity.YOUNGER, "model", {"head": "keep"})
    usual = {**OLD, "model": {"name": "deit_t", "head": "keep"}}
    new = {**OLD, "model": {"name": "deit_t", "head": "fresh"}}
    assert identity.identity_hash(usual) == identity.identity_hash(OLD)
    assert identity.identity_hash(new) != identity.identity_hash(OLD)
    assert identity.differences(OLD, usual) == []
    assert identity.differences(OLD, new) == ["model.head: None -> fresh"]
