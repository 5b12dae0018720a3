"""Weights load strictly; sizes and images that do not fit are refused."""

import pytest
import torch

from intvit.errors import IntVitError
from intvit.models import create_model, load_weights
from intvit.quant.presets import compose_quant

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def model_of(name: str, **options):
    arguments = {"image_size": 64, "patch_size": 16, "num_classes": 7, "mean": MEAN, "std": STD}
    return create_model(name, **{**arguments, "quant": compose_quant("lut8"), "depth": 2, **options})


def test_missing_and_unexpected_weights_are_named() -> None:
    model = model_of("deit_t")
    state = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state["extra.weight"] = state.pop("blocks.1.norm2.bias")
    with pytest.raises(IntVitError, match=r"missing keys: blocks\.1\.norm2\.bias; unexpected keys: extra\.weight"):
        load_weights(model, state)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    state["head.weight"] = torch.zeros(5, 192)
    with pytest.raises(IntVitError, match=r"wrong shape keys: head\.weight \(5, 192\) instead of \(7, 192\)"):
        load_weights(model, state)


def test_an_unreadable_weights_file_is_one_line(tmp_path) -> None:
    for name in ("weights.safetensors", "weights.pth"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(IntVitError, match=name):
            load_weights(model_of("deit_t"), tmp_path / name)
    with pytest.raises(IntVitError, match="no such file"):
        load_weights(model_of("deit_t"), tmp_path / "absent.safetensors")


def test_pth_checkpoints_load_with_weights_only(tmp_path) -> None:
    source, target = model_of("deit_t"), model_of("deit_t")
    torch.save({"model": dict(source.named_parameters())}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_an_image_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(IntVitError, match=r"image_size=65 is not divisible by model\.patch_size=16; .*64"):
        model_of("deit_t", image_size=65)


def test_an_unknown_model_is_refused_with_the_list() -> None:
    with pytest.raises(IntVitError, match=r"deit_x.*deit_t"):
        model_of("deit_x")


def test_images_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(IntVitError, match=r"torch\.float32 \(1, 3, 64, 64\)"):
        model_of("deit_t")(torch.zeros(1, 3, 64, 64))
