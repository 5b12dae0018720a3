"""The contract on every path of the native runtime: every preset, a ViT and a Swin, equal to the numpy runtime."""

from collections import Counter

import numpy as np
import pytest

from intvit.export.record import record
from intvit.runtime import load_runtime
from intvit.runtime.native.lowering import lower
from intvit.runtime.native.runtime import NativeRuntime, supported
from intvit.runtime.native.steps import Kind
from tests.support.preset_programs import preset_cases, small_swin
from tests.support.quick import slow_but
from tests.support.registry_models import random_images as images_of_size
from tests.support.small_models import PRESETS

PATHS = supported()
FEW = ("ivit8", "ibert8", "lut8_true8", "ivit_paper", "w4a8", "w4a4")  # on emulated tiles, which are slow


def images_that_differ(preset: str, paths: list[str]) -> dict[str, int]:
    """Architecture and path -> how many images do not get numpy's scores."""
    found = {}
    for name, program, images in preset_cases(preset):
        expected = load_runtime(program, "numpy")(images)
        for path in paths:
            scores = NativeRuntime(program, threads=2, path=path)(images)
            found[f"{name} {path}"] = int((scores != expected).any(1).sum())
    return found


@pytest.mark.skipif(not PATHS, reason="the native runtime is not compiled here")
@pytest.mark.parametrize("preset", PRESETS)
def test_every_path_preset_and_architecture(preset: str) -> None:
    assert images_that_differ(preset, PATHS) == {f"{name} {path}": 0 for name in ("vit", "swin") for path in PATHS}


@pytest.mark.parametrize("preset", slow_but(FEW, PRESETS))
@pytest.mark.xdist_group("emulated_amx")  # one worker compiles it, the others need not wait
def test_every_preset_with_emulated_amx_tiles(preset: str, emulated_amx: str) -> None:
    assert images_that_differ(preset, [emulated_amx]) == {f"vit {emulated_amx}": 0, f"swin {emulated_amx}": 0}


@pytest.mark.parametrize("preset", PRESETS)
def test_attention_is_one_step_in_every_preset(preset: str) -> None:
    for name, program, _ in preset_cases(preset):
        kinds = Counter(step.kind for step in lower(program, fuse=True).steps)
        attentions = sum(operator.op in ("softmax", "exponential") for operator in program.operators)
        assert kinds[Kind.ATTENTION] == attentions > 0, name


def test_the_trace_names_equal_operators_on_a_swin() -> None:
    if not PATHS:
        pytest.skip("the native runtime is not compiled here")
    program = record(small_swin("ivit8"))
    images = images_of_size(1, 56).numpy()
    native, reference = (load_runtime(program, name).trace(images) for name in ("native", "numpy"))
    for (name, value), (other, expected) in zip(native, reference, strict=True):
        assert name == other
        assert np.array_equal(value, expected), name
