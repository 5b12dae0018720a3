"""`intvit export qonnx`: in qonnx every value equals the numpy runtime's, FINN's conventions hold; what is refused."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.export.qonnx.graph import CUSTOM, GENERAL, OP_TYPES
from intvit.export.qonnx.model import save_qonnx, to_qonnx
from intvit.export.qonnx.operators import OPERATORS
from intvit.export.qonnx.thresholds import thresholds
from intvit.program import Constant, Operator, Program, Value, limits, save_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.numpy import OPERATORS as KERNELS
from tests.support.programs import dense_images, dense_program, linear_program, program_of
from tests.support.random_programs import images_for, random_program
from tests.support.small_models import PRESETS


def differences(program: Program, images: np.ndarray, folder: Path) -> list[str | None]:
    """By image the first operator that differs in qonnx. An integer outside of its annotation is an error."""
    pytest.importorskip("qonnx", reason="qonnx executes the graph: pip install 'intvit[qonnx]'")
    from intvit.export.qonnx.execution import first_differences

    save_qonnx(program, folder / "model.onnx")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The values of tensor")
        return first_differences(program, folder / "model.onnx", images)


def nodes_of(program: Program) -> dict[str, str]:
    """By operator the last of its nodes, `our X` for one of our domain, and no node for a constant."""
    nodes = to_qonnx(program)[0].graph.node
    return {node.name: f"our {node.op_type}" if node.domain == CUSTOM else node.op_type for node in nodes}


# 0 to 3: every kind of LayerNorm and GELU, masks, labels, negative and zero multipliers
@pytest.mark.parametrize("seed", [1, 3])
def test_every_value_equals_the_numpy_runtimes(seed: int, tmp_path: Path) -> None:
    program = random_program(seed)
    assert differences(program, images_for(program, 3, seed)[1:], tmp_path) == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(48))
def test_every_value_of_random_programs_equals_the_numpy_runtimes(seed: int, tmp_path: Path) -> None:
    program = random_program(seed, wide=seed % 6 == 5)
    assert differences(program, images_for(program, 5, seed), tmp_path) == [None] * 5


def test_values_beyond_2_to_the_24_travel_in_int32(tmp_path: Path) -> None:
    """Sums of up to 32 million, odd ones among them, then a requantization to 8 bits, and their scores."""
    weight = np.random.default_rng(0).choice([-127, 126, 127], (3, 2000))
    weight[0] = 127
    program = linear_program(weight, 5)
    head, scores = program.operators[-2:]
    roles = {"multiplier": "r", "shift": "wide.shift"}
    narrow = Operator("requantize", "narrow", (head.output,), "narrow", {"bits": 8, "signed": True}, roles)
    last = replace(scores, inputs=("narrow",))
    values = {**program.values, "narrow": Value((3,), 8, True)}
    constants = program.constants | {"wide.shift": Constant(np.array([19]), 8)}
    program = Program(program.input, program.output, values, constants, [*program.operators[:-1], narrow, last])
    images = images_for(program, 4)
    assert np.abs(dict(load_runtime(program, "numpy").trace(images))["head"]).max() > 2**24
    assert differences(program, images, tmp_path) == [None] * 4
    found = nodes_of(program)
    assert (found["head"], found["narrow"]) == ("our Linear", "our Requantize")
    infos = {info.name: info.type.tensor_type.elem_type for info in to_qonnx(program)[0].graph.value_info}
    assert infos["head"] == TensorProto.INT32
    assert infos["narrow"] == TensorProto.FLOAT


@pytest.mark.parametrize("ends", [("upsample", "argmax"), ("upsample",)])
def test_dense_outputs_are_equal(ends: tuple[str, ...], tmp_path: Path) -> None:
    program = dense_program(5, (3, 4), 4, ends)
    assert differences(program, dense_images(program, 1), tmp_path) == [None] * 4


def joined_program(second: int, table: np.ndarray) -> Program:
    """image [1, 2, 4] -> u - 128; twice the sum of it and itself, each with a multiplier; then a table as GELU."""
    constants = {
        "m": Constant(np.array([2]), 32),
        "b": Constant(np.array([-256]), 64),
        "a": Constant(np.array([3]), 32),
        "c": Constant(np.array([second]), 32),
        "e": Constant(np.array([2]), 8),
        "t": Constant(table, 8),
        "s": Constant(np.array([1]), 8),
    }
    scores = {"multiplier": "m", "shift": "s"}
    roles = {"multiplier_a": "a", "multiplier_b": "c", "shift": "e"}
    return program_of(
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, {"multiplier": "m", "bias": "b"}),
        Operator("add", "sum", ("x", "x"), "sum", {"bits": 8}, roles),
        Operator("gelu", "act", ("sum",), "act", {"kind": "table", "bits": 8}, {"table": "t"}),
        Operator("reshape", "flat", ("act",), "flat", {"shape": (8,)}),
        Operator("requantize", "scores", ("flat",), "scores", {"bits": 32, "signed": True}, scores),
        constants=constants,
        shape=(1, 2, 4),
    )


def test_an_add_of_one_scale_and_a_rising_function_are_thresholds(tmp_path: Path) -> None:
    rising = np.maximum(np.arange(-128, 128), 0)
    program = joined_program(3, rising)
    found = nodes_of(program)
    assert (found["sum.sum"], found["sum"], found["act"]) == ("Add", "MultiThreshold", "MultiThreshold")
    assert differences(program, images_for(program, 4), tmp_path) == [None] * 4


def test_an_add_of_two_scales_and_a_falling_function_are_ours(tmp_path: Path) -> None:
    falling = np.abs(np.arange(-127, 129)) // 2
    program = joined_program(4, falling)
    found = nodes_of(program)
    assert (found["sum"], found["act"]) == ("our Add", "our Gelu")
    assert differences(program, images_for(program, 4), tmp_path) == [None] * 4


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_thresholds_count_to_the_function_itself(bits: int, signed: bool) -> None:
    """Requantize with random multipliers, of zero, and so large or small that few codes are reached."""
    rng, output = np.random.default_rng(bits), Value((7,), bits, signed)
    low, high = limits(bits, signed)
    for width in (3, 12, 23):
        least, most = -int(rng.integers(1, 2**width)), int(rng.integers(1, 2**width))
        shift = rng.integers(1, 31, 7)
        multiplier = np.floor(2.0**shift * rng.uniform(0, 2.0 ** (bits - width + 1), 7)).astype(np.int64)
        multiplier[:2] = 0, 2**31 - 1

        def function(x: np.ndarray, m: np.ndarray = multiplier, e: np.ndarray = shift) -> np.ndarray:
            return np.clip((x * m + (1 << (e - 1))) >> e, low, high)

        table = thresholds(function, 7, least, most, output)
        assert table.shape == (7, 2**bits - 1)
        assert (np.diff(table, axis=1) >= 0).all()
        near = np.concatenate([table.T + d for d in (-1, 0, 1)]).clip(least, most)
        x = np.concatenate([near, rng.integers(least, most + 1, (50, 7)), [[least] * 7], [[most] * 7]])
        assert np.array_equal((x[:, :, None] >= table).sum(2) + low, function(x))


def annotated(model: ModelProto) -> dict[str, str]:
    return {a.tensor_name: a.quant_parameter_tensor_names[0].value for a in model.graph.quantization_annotation}


@pytest.mark.parametrize("seed", [4, 6, 16])
def test_what_finn_is_said_to_take_keeps_its_conventions(seed: int) -> None:
    """What its conversion to hardware layers asserts of a MultiThreshold, and of a MatMul with constant weights."""
    model, placements = to_qonnx(random_program(seed))
    kinds, arrays = annotated(model), {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.value_info}
    counted = Counter(node.op_type for node in model.graph.node if node.domain != CUSTOM)
    for node in model.graph.node:
        if node.op_type == "MultiThreshold":
            (x, table), (y,) = node.input, node.output
            options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            bits, signed = int(kinds[y].removeprefix("U")[3:]), kinds[y].startswith("INT")
            assert node.domain == GENERAL
            assert options["out_dtype"].decode() == kinds[y]
            assert (options["out_scale"], options["out_bias"]) == (1.0, limits(bits, signed)[0])
            assert arrays[table].dtype == np.float32
            assert arrays[table].shape[1] == 2**bits - 1
            assert (np.diff(arrays[table], axis=1) >= 0).all()
            assert "INT" in kinds[x]
            assert "INT" in kinds[table]
            channels = shapes[y][options["data_layout"].index(b"C")]
            assert arrays[table].shape[0] in (1, channels)
        elif node.op_type == "MatMul" and node.name.endswith(".product"):
            assert all("INT" in kinds[name] for name in (*node.input, *node.output))
            assert arrays[node.input[1]].shape[1] == shapes[node.output[0]][-1]
    taken = Counter(p.nodes for p in placements if p.taken)
    assert taken["MultiThreshold"] + taken["Add, MultiThreshold"] == counted["MultiThreshold"]
    assert taken["MatMul, Add"] + sum(p.nodes == "MatMul" for p in placements) == counted["MatMul"]


def test_tensors_hold_the_integers_of_their_annotations() -> None:
    """Initializers; of values, qonnx itself warns, which is an error in these tests."""
    model, _ = to_qonnx(random_program(5))
    kinds = annotated(model)
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if initializer.name not in kinds:
            assert array.dtype.kind in "iu"  # shapes, indices, and constants of our operators
            continue
        kind = kinds[initializer.name]
        low, high = limits(int(kind.removeprefix("U")[3:]), kind.startswith("INT"))
        assert array.dtype == np.float32
        assert np.array_equal(array, np.rint(array))
        assert low <= array.min() <= array.max() <= high


def test_the_graph_survives_what_qonnx_and_finn_do_first(tmp_path: Path) -> None:
    """Shapes, types and layouts inferred anew, and names given."""
    pytest.importorskip("qonnx", reason="pip install 'intvit[qonnx]'")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames
    from qonnx.transformation.infer_data_layouts import InferDataLayouts
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    from intvit.export.qonnx.execution import execute, first_differences

    program = random_program(9)
    model = ModelWrapper(to_qonnx(program)[0])
    before = {node.name: model.get_tensor_shape(node.output[0]) for node in model.graph.node}
    types = {node.name: model.get_tensor_datatype(node.output[0]) for node in model.graph.node}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for change in (InferShapes(), InferDataTypes(), InferDataLayouts()):
            model = model.transform(change)
    for node in model.graph.node:
        assert model.get_tensor_shape(node.output[0]) == before[node.name]
        found, expected = model.get_tensor_datatype(node.output[0]), types[node.name]
        assert found == expected or (found == "INT32" and expected.signed())  # qonnx proves no sums
    model.save(tmp_path / "inferred.onnx")
    assert first_differences(program, tmp_path / "inferred.onnx", images_for(program, 2)) == [None, None]
    renamed = model.transform(GiveUniqueNodeNames()).transform(GiveReadableTensorNames())
    image, output = renamed.graph.input[0].name, renamed.graph.output[0].name
    given = images_for(program, 1)
    scores = execute(renamed, {image: given.astype(np.float32)})[output]
    assert np.array_equal(scores, load_runtime(program, "numpy")(given))


def test_every_operator_that_computes_has_a_class_of_our_domain() -> None:
    assert OPERATORS.keys() == KERNELS.keys()
    pytest.importorskip("qonnx", reason="pip install 'intvit[qonnx]'")
    from qonnx.custom_op.registry import getCustomOp, is_custom_op

    for op_type in OP_TYPES.values():
        assert is_custom_op(CUSTOM, op_type)
        node = helper.make_node(op_type, ["x"], ["y"], domain=CUSTOM, input_types=["INT8"])
        assert getCustomOp(node, onnx_opset_version=1).verify_node() == []


@pytest.mark.parametrize(
    ("name", "preset", "changes"),
    [("deit_t", "lut8", {"width": 48}), ("swin_t", "ivit8", {"width": 24, "depths": (2,), "heads": (3,)})],
)
def test_a_small_model_gives_equal_values(name: str, preset: str, changes: dict[str, Any], tmp_path: Path) -> None:
    from intvit.calibration import calibrate
    from intvit.export.record import record
    from tests.support.registry_models import model_of, random_images, reduced

    model, size = model_of(name, preset, **changes).eval(), reduced(name)[0]
    calibrate(model, [random_images(4, size)])
    assert differences(record(model), random_images(1, size).numpy(), tmp_path) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["vit", "swin"])
@pytest.mark.parametrize("preset", PRESETS)
def test_models_of_every_preset_give_equal_values(which: str, preset: str, tmp_path: Path) -> None:
    from tests.support.preset_programs import preset_cases

    program, images = next((program, images) for name, program, images in preset_cases(preset) if name == which)
    assert differences(program, images[:2], tmp_path) == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["w4a8", "lut8"])
def test_the_real_deit_gives_equal_values(preset: str, test_data: Path, tmp_path: Path) -> None:
    from tests.support.real_deit import real_deit, unseen_photos

    program = real_deit(preset, test_data)
    assert differences(program, unseen_photos(test_data)[0][:2], tmp_path) == [None, None]


def test_the_command_says_what_finn_takes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("qonnx", reason="pip install 'intvit[qonnx]'")
    program = linear_program(np.array([[1, -2], [3, 4]]), 5)
    save_checkpoint(program, tmp_path / "integer")
    file = tmp_path / "model.onnx"
    assert main(["export", "qonnx", str(tmp_path / "integer"), str(file), "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: 4 operators, 2 in a form that FINN takes"
    assert [line.split()[:2] for line in lines[2:-1]] == [
        ["quantize_input", "1"],
        ["linear", "1"],
        ["reshape", "1"],
        ["requantize", "1"],
    ]
    assert lines[-1] == "qonnx: 4 images, every value equal"


def test_a_changed_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("qonnx", reason="pip install 'intvit[qonnx]'")
    from intvit.export.qonnx.execution import first_differences

    program = linear_program(np.array([[1, -2], [3, 4]]), 5)
    model, _ = to_qonnx(program)
    (bias,) = (entry for entry in model.graph.initializer if entry.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save_model(model, tmp_path / "changed.onnx")
    assert first_differences(program, tmp_path / "changed.onnx", images_for(program, 2)) == ["head", "head"]


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    program = random_program(1)
    with pytest.raises(IntVitError, match=r"program.json: not the name of an ONNX file; give one that ends in .onnx$"):
        save_qonnx(program, tmp_path / "program.json")
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(IntVitError, match=r"mine.onnx exists; give a new name, nothing was written$"):
        save_qonnx(program, tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    foreign = replace(program, operators=[replace(program.operators[0], op="blur"), *program.operators[1:]])
    with pytest.raises(IntVitError, match=r"operator '.*' \(blur\): the QONNX export has no node for it; it has"):
        save_qonnx(foreign, tmp_path / "foreign.onnx")
    assert not (tmp_path / "foreign.onnx").exists()


def test_the_command_without_qonnx_writes_and_names_the_extra_when_it_checks(tmp_path: Path) -> None:
    save_checkpoint(linear_program(np.array([[1, -2], [3, 4]]), 5), tmp_path / "integer")
    script = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'qonnx' else find(name, *rest)\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'qonnx': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from intvit.commands import main\n"
        "main(['export', 'qonnx', 'integer', 'model.onnx', '--check'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: this needs the package qonnx, which is not installed: pip install 'intvit[qonnx]'\n"
    assert (tmp_path / "model.onnx").is_file()


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "qonnx", str(tmp_path / "nothing"), str(tmp_path / "model.onnx")])
    assert caught.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
