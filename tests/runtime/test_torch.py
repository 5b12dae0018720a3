"""The torch runtime computes on integers alone, and equals the numpy runtime on random programs."""

import warnings

import numpy as np
import pytest
import torch

from intvit.export.record import record
from intvit.runtime import load_runtime
from intvit.runtime import torch as torch_runtime
from tests.support.random_programs import images_for, random_program
from tests.support.small_models import prepared, small_model


@pytest.mark.parametrize("preset", ["ivit_paper", "ibert8_true8", "ppoly8", "lut8"])
def test_the_exported_graph_holds_no_floating_point_tensor(preset: str) -> None:
    runtime = load_runtime(record(prepared(small_model(preset, depth=1))), "torch")
    assert runtime.floating_tensors() == []


def test_a_float_leak_in_one_operator_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load_runtime(record(prepared(small_model("lut8", depth=1))), "torch")
    exact = torch_runtime.OPERATORS["add"]

    def leaking(*arguments):
        return exact(*arguments).double().floor().to(torch.int32)  # the same integers, by way of a float

    monkeypatch.setitem(torch_runtime.OPERATORS, "add", leaking)
    assert runtime.floating_tensors() != []


def test_images_that_are_read_only_and_in_another_order_pass_without_a_word() -> None:
    program = random_program(0)
    images = images_for(program, 4)
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    turned.flags.writeable = images.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [load_runtime(program, "torch")(given) for given in (images, turned)]
    for scores in found:
        assert np.array_equal(scores, load_runtime(program, "numpy")(images))


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_torch_and_numpy_give_equal_integers_on_random_programs(first: int) -> None:
    for seed in range(first, first + 20):
        program = random_program(seed)
        images = images_for(program, 4, seed)
        runs = [load_runtime(program, name) for name in ("torch", "numpy")]
        for (name, a), (other, b) in zip(*[run.trace(images) for run in runs], strict=True):
            assert name == other
            assert np.array_equal(a, b), f"seed {seed}, operator {name}"
        scores = [run(images) for run in runs]
        assert scores[0].dtype == scores[1].dtype == np.int32
        assert np.array_equal(*scores)
