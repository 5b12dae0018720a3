"""Activations of 4 bits take half a byte in checkpoints and in prices; what every runtime computes stays the same."""

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from intvit.export.record import record
from intvit.program import Constant, Program, load_checkpoint, save_checkpoint
from intvit.program.cost import operator_costs
from intvit.runtime import load_runtime
from intvit.runtime.native.runtime import supported
from intvit.search.budget import usage
from tests.support.small_models import extreme_images, prepared, random_images, small_model

IMAGES = torch.cat((random_images(3, 1), extreme_images(4)))
# 4-bit activations, tables and, as the stream is that narrow, a class token and position embeddings of 4 bits.
NARROW = ["quant.bits.residual=4", "quant.bits.gelu_input=null"]


def scores(program: Program) -> list[np.ndarray]:
    names = ["torch", "numpy", "onnx", *(["native"] if supported() else [])]
    return [load_runtime(program, name)(IMAGES.numpy()) for name in names]


@pytest.fixture(scope="module")
def narrow() -> tuple[Program, np.ndarray]:
    """The program of a model and the model's own scores."""
    model = prepared(small_model("w4a4", NARROW, depth=1))
    return record(model), model.integer_scores(IMAGES).numpy()


def test_tables_and_constants_of_four_bits_are_packed_and_run_to_equal_integers(
    narrow: tuple[Program, np.ndarray], tmp_path: Path
) -> None:
    program, expected = narrow
    save_checkpoint(program, tmp_path / "narrow")
    stored = load_file(tmp_path / "narrow" / "weights.safetensors")
    packed = {"gelu.table": 0, "linear.weight": 0, "constant.value": 0}
    for operator in program.operators:
        for role, name in operator.constants.items():
            constant, key = program.constants[name], f"{operator.op}.{role}"
            if key in packed and constant.bits == 4:
                packed[key] += 1
                assert (stored[name].dtype, stored[name].size) == (np.uint8, (constant.array.size + 1) // 2)
    assert packed["gelu.table"] == 1
    assert packed["linear.weight"] == 4
    assert packed["constant.value"] == 2
    table = next(operator for operator in program.operators if operator.op == "gelu").constants["table"]
    assert stored[table].nbytes == 8  # of 16 codes
    assert all(np.array_equal(found, expected) for found in scores(load_checkpoint(tmp_path / "narrow")))


def test_an_older_checkpoint_with_whole_bytes_runs_to_equal_integers(
    narrow: tuple[Program, np.ndarray], tmp_path: Path
) -> None:
    """Tables of GELU were declared 8 bits wide whatever their output."""
    program, expected = narrow
    wide = {
        name: Constant(constant.array, 8) if name.endswith(".table") and constant.bits == 4 else constant
        for name, constant in program.constants.items()
    }
    older = replace(program, constants=wide)
    assert older != program
    save_checkpoint(older, tmp_path / "older")
    assert all(np.array_equal(found, expected) for found in scores(load_checkpoint(tmp_path / "older")))


def test_four_bits_are_priced_at_half_a_byte(narrow: tuple[Program, np.ndarray]) -> None:
    program, _ = narrow
    halves = 0
    for cost in operator_costs(program):
        operator = next(each for each in program.operators if each.name == cost.name)
        values = [program.values[name] for name in (*operator.inputs, operator.output)]
        halves += sum(value.bits == 4 for value in values)
        assert cost.activation_bytes == sum(prod(value.shape) * value.bits / 8 for value in values)
        constants = [program.constants[name] for name in operator.constants.values()]
        assert cost.weight_bytes == sum(constant.array.size * constant.bits / 8 for constant in constants)
    assert halves > 10
    (gelu,) = (cost for cost in operator_costs(program) if cost.op == "gelu")
    assert gelu.weight_bytes == 8.0  # 16 codes of half a byte
    assert usage(program, prove=False).bytes == sum(cost.weight_bytes for cost in operator_costs(program))
