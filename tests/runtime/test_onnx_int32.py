"""The ONNX form without 64-bit integers: its arithmetic against Python's, and whole programs in both engines."""

import random
from collections.abc import Callable
from importlib.util import find_spec
from math import isqrt
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from intvit.calibration import calibrate
from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.record import record
from intvit.program import Program, save_checkpoint
from intvit.runtime.onnx import save_onnx, to_onnx
from intvit.runtime.onnx import wide_integers as wide
from intvit.runtime.onnx.builder import IR_VERSION, OPSET, Body
from intvit.runtime.onnx.engine_check import check_engine
from intvit.runtime.onnx.model import Form
from intvit.runtime.onnx.wide_integers import Wide
from tests.support.random_programs import images_for, random_program
from tests.support.registry_models import model_of
from tests.support.registry_models import random_images as images_of_size
from tests.support.small_models import PRESETS, prepared, random_images, small_model
from tests.support.small_models import extreme_images as saturating

INT32 = Form(inline=True, int32=True)
NEEDS_OPENVINO = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
ENGINES = ["onnxruntime", pytest.param("openvino", marks=NEEDS_OPENVINO)]
NEWTON = "newton_steps has no form in 32 bits"  # of ivit_paper, and of many a random program


def computed(engine: str, folder: Path, write: Callable[..., list[str]], **inputs: np.ndarray) -> list[list[int]]:
    """Values that `write` adds to a graph of int32 inputs [N, K]."""
    f = Body()
    names = [f.op("Identity", name, output=f"out{i}") for i, name in enumerate(write(f, *inputs))]
    values = [helper.make_tensor_value_info(name, TensorProto.INT32, list(x.shape)) for name, x in inputs.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in names]
    graph = helper.make_graph(f.nodes, "arithmetic", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save_model(model, folder / "model.onnx")
    if engine == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
        found = compiled(inputs)
        by_name = {name: found[port] for port in compiled.outputs for name in port.get_names()}
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        by_name = dict(zip(names, session.run(names, inputs), strict=True))
    return [by_name[name].reshape(-1).tolist() for name in names]


def numbers(bits: int, count: int, seed: int, *, signed: bool = True) -> np.ndarray:
    """int32 of all sizes, with those around powers of two."""
    draw = random.Random(seed)
    ends = [s * (2**k) + d for k in range(bits) for d in (-1, 0, 1) for s in ((-1, 1) if signed else (1,))]
    low, high = (-(2**bits) if signed else 0), 2**bits - 1
    several = [x for x in ends if low <= x <= high] + [low, high, 0]
    several += [draw.randint(-(2**k) if signed else 0, 2**k - 1) for k in draw.choices(range(1, bits + 1), k=count)]
    draw.shuffle(several)
    return np.array([several[:count]], np.int32)


def whole(high: list[int], low: list[int]) -> list[int]:
    assert all(0 <= part < 2**31 for part in low)
    return [h * 2**31 + part for h, part in zip(high, low, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_products_sums_and_shifts_are_exact(engine: str, tmp_path: Path) -> None:
    x, y, z = numbers(30, 900, 1), numbers(31, 900, 2), numbers(31, 900, 3)
    shifts = np.arange(900) % 62

    def write(f: Body, a: str, b: str, c: str) -> list[str]:
        product, other = wide.multiply(f, a, b), wide.multiply_any(f, c, b)
        total, less = wide.add(f, product, wide.widened(f, c)), wide.subtract(f, product, wide.widened(f, c))
        fixed = wide.add(f, product, 2**45 - 12345)
        parts = [part for value in (product, other, total, less, fixed) for part in (value.high, value.low)]
        return [*parts, wide.shifted(f, product, shifts), wide.shift_right(f, c, shifts % 31)]

    *parts, shifted, right = computed(engine, tmp_path, write, a=x, b=y, c=z)
    product, other, total, less, fixed = (whole(*parts[i : i + 2]) for i in range(0, 10, 2))
    x, y, z = (array[0].tolist() for array in (x, y, z))
    assert product == [a * b for a, b in zip(x, y, strict=True)]
    assert other == [c * b for c, b in zip(z, y, strict=True)]
    assert total == [a * b + c for a, b, c in zip(x, y, z, strict=True)]
    assert less == [a * b - c for a, b, c in zip(x, y, z, strict=True)]
    assert fixed == [a * b + 2**45 - 12345 for a, b in zip(x, y, strict=True)]
    expected = [(a * b >> int(e)) % 2**32 for a, b, e in zip(x, y, shifts, strict=True)]
    assert [value % 2**32 for value in shifted] == expected
    assert right == [c >> int(e) % 31 for c, e in zip(z, shifts, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_quotients_and_roots_are_exact(engine: str, tmp_path: Path) -> None:
    d, n = np.maximum(numbers(31, 300, 4, signed=False), 1), numbers(31, 300, 5, signed=False)
    high = numbers(24, 300, 6, signed=False)

    def write(f: Body, a: str, b: str, c: str) -> list[str]:
        upper, lower = wide.quotient(f, 2**40, a, [21, 20])
        (of_values,) = wide.quotient(f, b, a, [31])
        return [upper, lower, of_values, wide.square_root(f, Wide(c, b), 56)]

    upper, lower, of_values, roots = computed(engine, tmp_path, write, a=d, b=n, c=high)
    d, n, high = (array[0].tolist() for array in (d, n, high))
    assert [u * 2**20 + v for u, v in zip(upper, lower, strict=True)] == [2**40 // v for v in d]
    assert of_values == [a // b for a, b in zip(n, d, strict=True)]
    assert roots == [isqrt(h * 2**31 + v) for h, v in zip(high, n, strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_sums_of_rows_are_exact(engine: str, tmp_path: Path) -> None:
    x, y = numbers(19, 1000, 7), numbers(31, 1000, 8, signed=False)

    def write(f: Body, a: str, b: str) -> list[str]:
        total = wide.joined_wide(f, wide.row_sum(f, b, 1000, 2**31 - 1, signed=False))
        return [wide.joined(f, wide.row_sum(f, a, 1000, 2**19, signed=True)), total.high, total.low]

    narrow, high, low = computed(engine, tmp_path, write, a=x, b=y)
    assert narrow == [int(x.sum())]
    assert whole(high, low) == [int(y.astype(np.int64).sum())]


def integer_types(model: ModelProto) -> set[str]:
    """Types of all values but the shapes and axes that ONNX wants as int64."""
    flat = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {name for node in flat.graph.node for name in node.input[1:] if node.op_type in SHAPED}
    shapes |= {out for node in flat.graph.node if node.op_type in ("Shape", "Concat") for out in node.output}
    found = [value for value in flat.graph.value_info if value.name not in shapes]
    return {TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in found}


SHAPED = ("Reshape", "Expand", "Slice", "ReduceSum", "ReduceMax", "Unsqueeze", "Gather")


def equal_in(engine: str, program: Program, images: np.ndarray, folder: Path) -> bool:
    save_onnx(program, folder / "model.onnx", form=INT32)
    return check_engine(program, folder / "model.onnx", engine, images, form=INT32).mismatches == 0


@pytest.mark.parametrize("seed", [9, 13])
def test_no_value_has_64_bits_and_programs_give_equal_integers(seed: int, tmp_path: Path) -> None:
    program = random_program(seed)
    model = to_onnx(program, form=INT32)
    assert not model.functions
    allowed = {"BOOL", "INT8", "INT16", "INT32", "UINT8", "UINT16"}
    assert integer_types(model) <= allowed
    assert equal_in("onnxruntime", program, images_for(program, 4, seed), tmp_path)


@NEEDS_OPENVINO
def test_openvino_is_wrong_with_64_bits_and_equal_without(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_checkpoint(random_program(29), tmp_path / "integer")
    command = ["export", "onnx", str(tmp_path / "integer"), str(tmp_path / "m.onnx"), "--check", "openvino"]
    with pytest.raises(SystemExit):
        main(command)
    assert "openvino does not take" in capsys.readouterr().err
    assert main([*command, "--inline"]) == 1
    assert "the scores of 8 of 8 images differ; the first operator to differ is " in capsys.readouterr().out
    assert main([*command, "--int32"]) == 0
    assert "8 images, all scores equal" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_equal_integers_without_64_bits(preset: str, engine: str, tmp_path: Path) -> None:
    program = record(prepared(small_model(preset, depth=1)))
    images = torch.cat((random_images(3, 6), saturating(5))).numpy()
    if preset == "ivit_paper":
        with pytest.raises(IntVitError, match=NEWTON):
            save_onnx(program, tmp_path / "model.onnx", form=INT32)
        return
    assert equal_in(engine, program, images, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_swin_gives_equal_integers_without_64_bits(engine: str, tmp_path: Path) -> None:
    model, images = model_of("swin_t", "lut8_true8"), images_of_size(3, 56)
    calibrate(model, [images])
    assert equal_in(engine, record(model), images.numpy(), tmp_path)


def test_what_has_no_form_in_32_bits_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=rf"operator '.*' \(layernorm\): {NEWTON}; leave out --int32$"):
        to_onnx(random_program(0), form=INT32)
    with pytest.raises(IntVitError, match="--int32 has no local functions and bitwise operators"):
        Form(17, inline=True, int32=True)
