"""Which parameters decay."""

import pytest

from intvit.models import MODELS
from intvit.training.config import train_config
from intvit.training.optimizer import build_optimizer
from tests.support.registry_models import model_of
from tests.support.tiny_runs import composed


@pytest.mark.parametrize("name", MODELS)
def test_matrices_decay_tokens_positions_norms_and_biases_do_not(name: str) -> None:
    model = model_of(name, "lut8")
    groups = build_optimizer(model, train_config(composed()).optimizer).param_groups
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    decaying, others = ({names[id(p)] for p in group["params"]} for group in groups)
    assert decaying == {key for key in names.values() if key.endswith(".weight") and "norm" not in key}
    assert decaying | others == set(names.values())
