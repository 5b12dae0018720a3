"""Calibration sees the heads of every pixel: what it folds leaves floats as they were, and integers are near them."""

import pytest
import torch

from intvit.calibration import calibrate
from intvit.calibration.dataflow import Dataflow
from intvit.export.record import record
from intvit.models.build import create_model
from intvit.quant import set_mode
from intvit.runtime import load
from tests.support.dense_models import dense_model, images_of

SWIN = {"width": 16, "depths": (1, 1, 2), "heads": (1, 2, 4), "patch": 2, "window": 3}


def swin(preset: str):
    torch.manual_seed(0)
    model = create_model("swin_t", quant=preset, dense="linear", image_size=(24, 40), num_classes=5, **SWIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("preset", ["w6a6", "w4a8"])
@pytest.mark.parametrize("head", ["linear", "multi", "mask", "swin"])
def test_few_bits_fold_into_a_head_without_a_change_of_floats(head: str, preset: str) -> None:
    model = swin(preset) if head == "swin" else dense_model(preset, head)
    images = images_of(model, 6, 1)
    with torch.no_grad():
        before = model(images)
        calibrate(model, [images])
        set_mode(model, "float")
        after = model(images)
    assert float((after - before).abs().max()) < 1e-4 * float(before.abs().max())
    set_mode(model, "integer")
    labels = model.integer_output(images)
    assert float((labels == before.argmax(1)).float().mean()) > 0.5
    assert (load(record(model), "numpy")(images.numpy()) == labels.numpy()).all()


def test_each_norm_of_multi_is_read_by_its_own_columns_of_the_head() -> None:
    model = dense_model("lut8", "multi")
    flow = Dataflow(model)
    columns = []
    for norm in (*model.norms, model.norm):
        (reader,) = flow.readers(norm)
        assert reader.layer is model.head
        columns.append(reader.columns)
    assert columns == [(0, 32), (32, 64)]
