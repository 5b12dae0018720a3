"""The onnx runtime and the model that it runs: equal at every operator, integers only, passed by ONNX's checker."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.program import Constant, Operator, Program, Value, load_checkpoint, save_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.onnx import engine_check, save_onnx, to_onnx
from intvit.runtime.onnx.builder import DOMAIN, IR_VERSION, OPSET, Body
from intvit.runtime.onnx.engine_check import check_engine
from intvit.runtime.onnx.model import Form
from intvit.runtime.onnx.normalization import square_root
from tests.support.programs import linear_program
from tests.support.quick import slow_but
from tests.support.random_programs import images_for, random_program
from tests.support.real_deit import real_deit, unseen_photos

INTEGERS = {
    getattr(TensorProto, name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}


def differing(program: Program, images: np.ndarray) -> list[str]:
    """Operators whose integers differ from the numpy runtime's, and the scores."""
    expected, found = load_runtime(program, "numpy"), load_runtime(program, "onnx")
    traced = dict(found.trace(images))
    wrong = [name for name, value in expected.trace(images) if not np.array_equal(value, traced[name])]
    return wrong + ([] if np.array_equal(found(images), expected(images)) else ["scores"])


@pytest.mark.parametrize("seed", slow_but(range(24), range(48)))
def test_every_operator_equals_the_numpy_runtime(seed: int) -> None:
    program = random_program(seed)
    assert differing(program, images_for(program, 6, seed)) == []


def test_values_beyond_int32_are_clamped_right() -> None:
    """onnxruntime's own Clip of int64 is wrong beyond 2^31."""
    program = linear_program(np.random.default_rng(0).integers(-127, 128, (40, 60)), 0)
    head, scores = program.operators[-2], program.operators[-1]
    ratio = {"multiplier": np.array([2**31 - 1]), "shift": np.array([1])}
    for bits, signed in ((8, True), (8, False), (16, True), (32, True)):
        changed = with_requantize(program, head.name, scores.name, bits, signed, ratio)
        names = [function.name for function in to_onnx(changed).functions]
        assert f"requantize_{'s' if signed else 'u'}{bits}_wide" in names
        assert differing(changed, images_for(changed, 12)) == []


def with_requantize(program: Program, head: str, scores: str, bits: int, signed: bool, ratio: dict) -> Program:
    """head -> requantize to (bits, signed) -> requantize to the scores, which never saturate."""
    roles = {"multiplier": "wide.multiplier", "shift": "wide.shift"}
    wide = Operator("requantize", "wide", (head,), "wide", {"bits": bits, "signed": signed}, roles)
    last = Operator(
        "requantize", scores, ("wide",), scores, {"bits": 32, "signed": True}, program.operators[-1].constants
    )
    values = {**program.values, "wide": Value(program.values[head].shape, bits, signed)}
    constants = program.constants | {roles[role]: Constant(array, 32) for role, array in ratio.items()}
    return Program(program.input, program.output, values, constants, [*program.operators[:-1], wide, last])


@pytest.mark.parametrize("seed", range(6))
def test_the_model_passes_the_full_checker_and_holds_integers_and_standard_operators_only(seed: int) -> None:
    model = to_onnx(random_program(seed))
    onnx.checker.check_model(model, full_check=True)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert {node.domain for node in nodes} == {"", DOMAIN}
    local = {function.name for function in model.functions}
    assert {node.op_type for node in nodes if node.domain == DOMAIN} == local
    flat = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model), strict_mode=True)
    assert {initializer.data_type for initializer in flat.graph.initializer} <= INTEGERS
    values = [*flat.graph.value_info, *flat.graph.input, *flat.graph.output]
    assert len(values) > len(model.graph.node)
    assert {value.type.tensor_type.elem_type for value in values} <= INTEGERS


def test_the_graph_reads_like_the_program() -> None:
    program = random_program(5)
    model = to_onnx(program)
    named = {node.name: node for node in model.graph.node if node.name}
    for operator in program.operators:
        node = named[operator.name]
        assert list(node.output) == [operator.output]
        read = {name.removesuffix(".b") for name in node.input}
        assert operator.op == "add" or read >= set(operator.inputs)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["intvit.classes"] == program.classes
    assert metadata["intvit.score_scale"] == program.score_scale
    assert metadata["intvit.scales"] == {name: v.scale for name, v in program.values.items() if v.scale is not None}
    assert metadata["intvit.input"]["values"].startswith("uint8")


def test_the_square_root_is_exact_around_squares() -> None:
    f = Body()
    f.op("Identity", square_root(f, "n"), output="root")
    shapes = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", 1]) for name in ("n", "root")]
    graph = helper.make_graph(f.nodes, "root", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    roots = [2**k + d for k in range(31) for d in (-1, 0, 1)] + [int(2 ** rng.uniform(0, 31)) for _ in range(3000)]
    numbers = {n for r in roots for n in (r * r - 1, r * r, r * r + 1, r * r + 2 * r, *range(20)) if 0 <= n < 2**62}
    n = np.array(sorted(numbers), np.int64)
    (found,) = session.run(None, {"n": n[:, None]})
    assert found[:, 0].tolist() == [math.isqrt(int(v)) for v in n]


def test_the_command_writes_a_file_that_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    program = random_program(6)
    save_checkpoint(program, tmp_path / "integer")
    assert (
        main(["export", "onnx", str(tmp_path / "integer"), str(tmp_path / "out" / "model.onnx"), "--batch", "3"]) == 0
    )
    assert f"{len(program.operators)} operators" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, *program.values[program.input].shape]
    images = images_for(program, 3)
    (scores,) = session.run(None, {program.input: images})
    assert np.array_equal(scores, load_runtime(load_checkpoint(tmp_path / "integer"), "numpy")(images))


@pytest.mark.parametrize("form", [Form(15), Form(17), Form(20), Form(ir_version=8), Form(15, 7, inline=True)], ids=str)
def test_older_and_newer_forms_give_equal_integers(form: Form, tmp_path: Path) -> None:
    for seed in (1, 5):
        program = random_program(seed)
        save_onnx(program, tmp_path / "model.onnx", form=form)
        model = onnx.load(tmp_path / "model.onnx")
        assert [entry.version for entry in model.opset_import if entry.domain == ""] == [form.opset]
        assert model.ir_version == form.written_ir_version
        assert bool(model.functions) != form.inline
        images = images_for(program, 3, seed)
        assert check_engine(program, tmp_path / "model.onnx", "onnxruntime", images, form=form).mismatches == 0


def test_numbers_that_onnx_has_not_are_refused() -> None:
    for form, message in (
        ({"opset": 14}, "opset 14: expected 15 to"),
        ({"opset": 99}, "opset 99: expected 15 to"),
        ({"ir_version": 7}, r"IR version 7: expected 8 to .* without local functions \(--inline\) 4 and up"),
        ({"ir_version": 99, "inline": True}, "IR version 99: expected 4 to"),
    ):
        with pytest.raises(IntVitError, match=message):
            Form(**form)


def test_the_check_runs_the_file_and_names_the_first_operator_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program(6)
    save_checkpoint(program, tmp_path / "integer")
    command = ["export", "onnx", str(tmp_path / "integer"), str(tmp_path / "m.onnx"), "--check", "onnxruntime"]
    assert main([*command, "--batch", "3"]) == 0  # 8 images by threes
    assert f"onnxruntime {onnxruntime.__version__}: 8 images, all scores equal" in capsys.readouterr().out
    right = engine_check.ENGINES["onnxruntime"]
    changed = program.operators[len(program.operators) // 2].output

    def wrong(file: Path) -> engine_check.Loaded:
        run = right(file)
        return lambda images: {k: v ^ 1 if k in (program.output, changed) else v for k, v in run(images).items()}

    monkeypatch.setitem(engine_check.ENGINES, "onnxruntime", wrong)
    np.save(tmp_path / "two.npy", images_for(program, 2))
    assert main([*command, "--images", str(tmp_path / "two.npy")]) == 1
    said = f"the scores of 2 of 2 images differ; the first operator to differ is {changed}"
    assert said in capsys.readouterr().out


def test_an_engine_that_is_missing_or_refuses_the_file_is_one_line(tmp_path: Path, monkeypatch) -> None:
    program = random_program(6)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(IntVitError, match=r"the package openvino is not installed: pip install openvino$"):
        check_engine(program, tmp_path / "model.onnx", "openvino", images_for(program, 1))
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(IntVitError, match=r"onnxruntime does not take .*model.onnx \(.*\); try --inline, or another"):
        check_engine(program, tmp_path / "model.onnx", "onnxruntime", images_for(program, 1))
    save_onnx(program, tmp_path / "model.onnx", batch=2)  # refused when it runs
    with pytest.raises(IntVitError, match=r"onnxruntime does not take .*model.onnx \(.*\); try --inline, or another"):
        check_engine(program, tmp_path / "model.onnx", "onnxruntime", images_for(program, 1))


def test_weights_are_stored_with_zero_point_128() -> None:
    program = random_program(2)
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in to_onnx(program).graph.initializer}
    for operator in program.operators:
        if operator.op == "linear":
            weight = program.constants_of(operator)["weight"].astype(np.int64)
            assert np.array_equal(arrays[f"{operator.name}.weight"].astype(np.int64) - 128, weight.T)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_one_line_says_how_to_get_them(package: str) -> None:
    script = (
        "import sys, importlib.util as util\n"
        f"blocked, find = {package!r}, util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == blocked else find(name, *rest)\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == blocked: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from intvit.errors import IntVitError\n"
        "from intvit.runtime import load_runtime\n"
        "try: load_runtime(None, 'onnx')\n"
        "except IntVitError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"the package {package} is not installed: pip install 'intvit[onnx]'\n"


def test_real_weights_and_photos_give_equal_integers(test_data: Path) -> None:
    images, _ = unseen_photos(test_data)
    assert differing(real_deit("ivit8", test_data), images[:3]) == []


def test_a_name_that_is_no_onnx_files_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "program.json"
    precious.write_text("precious")
    with pytest.raises(IntVitError, match=r"program.json: not the name of an ONNX file; give one that ends in .onnx"):
        save_onnx(random_program(1), precious)
    assert precious.read_text() == "precious"
