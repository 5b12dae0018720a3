"""The contract of a model that labels every pixel: scores and labels of model and runtimes are equal integers."""

from pathlib import Path

import numpy as np
import pytest

from intvit.calibration import calibrate
from intvit.export.record import export
from intvit.program import load_checkpoint
from intvit.quant import trace
from intvit.runtime import load_runtime
from tests.support.dense_models import dense_model, images_of

RUNTIMES = ("torch", "numpy", "onnx", "native")


@pytest.mark.parametrize(
    ("preset", "head"),
    [
        *((preset, "linear") for preset in ("ivit8", "ibert8", "lut8_true8")),
        *((preset, "mask") for preset in ("ivit8", "lut8_true8", "w4a4")),
        *((preset, "multi") for preset in ("lut8", "w6a6")),
    ],
)
def test_model_and_runtimes_give_equal_scores_and_labels(preset: str, head: str, tmp_path: Path) -> None:
    model = dense_model(preset, head)
    calibrate(model, [images_of(model, 8, 2)])
    images = images_of(model, 3, 3)
    export(model, tmp_path / "checkpoint")
    program = load_checkpoint(tmp_path / "checkpoint")
    assert program.form == "labels"
    assert program.num_classes == 5
    assert program.values[program.output].shape == (24, 32)
    expected, labels = trace(model, images), model.integer_output(images).numpy()
    assert len(np.unique(labels)) > 1
    assert np.array_equal(expected["head.upsample"], model.integer_scores(images).numpy())
    for name in RUNTIMES:
        runtime = load_runtime(program, name)
        result = runtime(images.numpy())
        assert result.dtype == np.int32
        assert np.array_equal(result, labels), name
        traced = dict(runtime.trace(images.numpy()))
        wrong = [key for key, value in expected.items() if not np.array_equal(value.ravel(), traced[key].ravel())]
        assert wrong == [], name
