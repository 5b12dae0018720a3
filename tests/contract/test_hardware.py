"""quant/hardware=dsp17: the contract holds, and every multiplier is what it says."""

import numpy as np
import pytest
import torch

from intvit.export.record import record
from intvit.program.bounds import bounds
from intvit.runtime import load_runtime
from tests.support.preset_programs import small_swin
from tests.support.presets import quant_of
from tests.support.registry_models import random_images as images_of_size
from tests.support.small_models import differences, extreme_images, prepared, random_images, small_model

DSP17 = "quant/hardware=dsp17"


@pytest.mark.parametrize("preset", ["ivit8", "ibert8_true8", "ppoly8", "lut8", "ivit_paper"])
def test_model_and_runtimes_give_equal_integers(preset, tmp_path) -> None:
    model = prepared(small_model(preset, [DSP17]))
    images = torch.cat((random_images(3, 1), extreme_images(4)))
    assert differences(model, images, tmp_path / "integer") == []


def test_multipliers_of_a_program_are_short_with_one_shift_for_a_tensor() -> None:
    for preset in ("ivit8", "ibert8", "ppoly8_true8"):
        program = record(prepared(small_model(preset, [DSP17])))
        proven = bounds(program)
        for operator in program.operators:
            constants, attributes = program.constants_of(operator), operator.attributes
            if operator.op in ("requantize", "add", "layernorm"):
                assert len(set(constants["shift"].tolist())) == 1
                multipliers = [array for role, array in constants.items() if role.startswith("multiplier")]
                assert max(int(np.abs(array.astype(np.int64)).max()) for array in multipliers) < 2**17
            if operator.op == "layernorm":
                reach = proven[operator.name].intermediates["normalized"]
                assert max(-reach.low, reach.high) <= 2**24
            if operator.op == "exponential":
                assert attributes["multiplier"] & (attributes["multiplier"] - 1) == 0
            if operator.op == "gelu":
                assert abs(attributes["multiplier"]) < 2**17
            if operator.op == "weighted_mean":
                assert attributes["multiplier"] < 2**31  # over 2^7, what a row weighs at least


def test_windows_with_a_bias_and_masks_give_equal_integers() -> None:
    model = small_swin("ibert8", quant=quant_of("ibert8", [DSP17]))
    images = images_of_size(2, 56)
    expected = model.integer_scores(images).numpy()
    assert np.array_equal(load_runtime(record(model), "numpy")(images.numpy()), expected)


def test_free_constants_are_todays() -> None:
    scores = [
        prepared(small_model("ivit8", more)).integer_scores(random_images(2, 1))
        for more in ([], ["quant/hardware=free"])
    ]
    assert torch.equal(*scores)
