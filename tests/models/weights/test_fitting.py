"""What does not fit is refused with the nearest reason and the way out; the model is then as it was."""

import re
from typing import Any

import pytest
import torch

from intvit.errors import IntVitError
from intvit.models import load_weights
from intvit.models.weights import is_classifier
from tests.support.foreign_weights import as_transformers, parameters, small

State = dict[str, torch.Tensor]


def refused(model: Any, state: State, message: str, **options: Any) -> None:
    before = parameters(model)
    with pytest.raises(IntVitError, match=re.escape(message)) as caught:
        load_weights(model, state, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())


@pytest.mark.parametrize(("name", "head"), [("deit_t", "head"), ("deit_t_distilled", "head"), ("swin_t", "head.fc")])
def test_another_number_of_classes(name: str, head: str) -> None:
    given = parameters(small(name, num_classes=9))
    refused(small(name), given, f"{head}.weight (9, ")
    refused(small(name), given, "weights of 9 classes: model.head=fresh makes a new classifier of 5")


def test_another_image_size() -> None:
    given = parameters(small(image_size=64))
    refused(small(), given, "pos_embed (1, 17, 16) instead of (1, 5, 16)")
    refused(small(), given, "weights for image size 64: model.resample=true resamples them to 32")
    swin = small("swin_t", image_size=48)
    refused(swin, parameters(small("swin_t", image_size=32)), "model.resample=true resamples them to 48")


def test_another_image_size_and_number_of_classes_at_once() -> None:
    given = parameters(small(image_size=64, num_classes=9))
    refused(small(), given, "model.resample=true resamples them to 32; weights of 9 classes: model.head=fresh makes")


def test_a_prefix_that_is_not_on_every_key() -> None:
    given = {f"net.{key}": value for key, value in parameters(small()).items()} | {"loss.weight": torch.ones(1)}
    refused(small(), given, "the model's names come after net.: say model.weights_prefix=net.")
    refused(small(), given, "begins with model.weights_prefix=model.; they begin with loss., net.", prefix="model")


def test_another_model_of_the_registry() -> None:
    given = parameters(small("deit_t", width=384, depth=12, heads=6))
    refused(small(), given, "they would fit model=deit_s or model=vit_s")
    given = parameters(small("swin_t", width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)))
    refused(small("swin_t"), given, "they would fit model=swin_s")
    refused(small(), parameters(small("deit_t", depth=2)), "they are of another architecture or size: check model")
    whole = parameters(small())
    refused(small(), {key: whole[key] for key in whole if key != "blocks.0.norm1.bias"}, "or a file that is not whole")
    distilled = parameters(small("deit_t_distilled", width=192, depth=12, heads=3))
    refused(small("deit_t", width=192, depth=12, heads=3), distilled, "they would fit model=deit_t_distilled")


def test_another_patch_size() -> None:
    given = parameters(small(patch_size=8))
    refused(small(), given, "patch size, width or number of channels ((16, 3, 8, 8)): patches are not resampled")


def test_weights_without_a_classifier() -> None:
    given = {key: value for key, value in parameters(small()).items() if not is_classifier(key)}
    refused(small(), given, "weights without a classifier: model.head=fresh makes one")
    pooled = as_transformers(given, "vit") | {"vit.pooler.dense.weight": torch.ones(16, 16)}  # transformers' ViTModel
    refused(small(), pooled, "weights without a classifier: model.head=fresh makes one")
    model = small()
    load_weights(model, pooled, head="fresh")
    assert all(torch.equal(model.get_parameter(key), value) for key, value in given.items())


def test_a_model_without_a_classifier() -> None:
    given, model = parameters(small()), small(num_classes=0)
    refused(
        model, given, "unexpected keys: head.weight, head.bias; the model has no classifier: model.head=fresh leaves"
    )
    load_weights(model, given, head="fresh")
    assert all(torch.equal(given[key], value) for key, value in model.named_parameters())


def test_values_that_are_no_finite_reals() -> None:
    given = parameters(small())
    integers = {**given, "norm.bias": torch.zeros(16, dtype=torch.int8)}
    refused(small(), integers, "norm.bias is torch.int8, of a quantizer; give the real numbers")
    given["norm.bias"][3] = torch.nan
    refused(small(), given, "norm.bias is not finite: the training diverged, or the file is damaged")


@pytest.mark.parametrize("name", ["deit_t", "deit_t_distilled", "swin_t"])
def test_a_fresh_head_is_the_model_s_own_and_everything_else_the_file_s(name: str) -> None:
    given, model = parameters(small(name, num_classes=9)), small(name)
    before = parameters(model)
    load_weights(model, given, head="fresh")
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key] if is_classifier(key) else given[key]), key
    assert len({key for key in before if is_classifier(key)}) == (4 if "distilled" in name else 2)
    load_weights(model, {key: value for key, value in given.items() if not is_classifier(key)}, head="fresh")
