"""docs/program-format.md is true: its test vectors, its complete example, and its list of operators."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from intvit.program import Constant, Operator, Program, Value, infer_output, load_checkpoint, save_checkpoint
from intvit.program.document import from_json
from intvit.program.operators import OPERATORS
from intvit.runtime import load_runtime
from intvit.runtime import numpy as numpy_runtime
from tests.support import big_integers
from tests.support.format_page import BLOCKS, EXAMPLE, PAGE

VECTORS = [json.loads(block) for block in BLOCKS if "op" in json.loads(block)]


def vector_name(vector: dict) -> str:
    kinds = (vector["attributes"].get(key) for key in ("kind", "method", "normalization", "newton_steps"))
    return "-".join([vector["op"], *(str(kind) for kind in kinds if kind is not None)])


@pytest.mark.parametrize("vector", VECTORS, ids=vector_name)
def test_a_vector_of_the_page_holds_for_the_runtime_and_for_big_integers(vector: dict) -> None:
    values = {
        f"x{i}": Value(np.shape(entry["values"]), entry["bits"], entry["signed"])
        for i, entry in enumerate(vector["inputs"])
    }
    arrays = [np.array(entry["values"]) for entry in vector["inputs"]]
    widest = {"table": 16 if vector["op"] == "gelu" else 32, "bias": 64, "mask": 1}
    constants = {role: Constant(np.array(array), widest.get(role, 32)) for role, array in vector["constants"].items()}
    operator = Operator(vector["op"], "y", tuple(values), "y", vector["attributes"], {role: role for role in constants})
    values["y"] = infer_output(operator, list(values.values()), constants)
    context = numpy_runtime.OperatorContext(Program("x0", "y", values, constants, [operator]), operator)
    kernel = numpy_runtime.OPERATORS[operator.op](context)
    assert kernel(*(array[None] for array in arrays))[0].tolist() == vector["output"]
    objects = [array.astype(object) for array in arrays]
    wide = {role: constant.array.astype(object) for role, constant in constants.items()}
    bits = [entry["bits"] for entry in vector["inputs"]]
    assert big_integers.evaluate(operator, objects, wide, bits).tolist() == vector["output"]


def test_every_kind_has_a_vector() -> None:
    seen = {(v["op"], v["attributes"].get("kind", v["attributes"].get("method"))) for v in VECTORS}
    expected = {(op, kind) for op, form in OPERATORS.items() for kind in form.kinds}
    others = ("requantize", "add", "quantize_input", "patches", "gather", "weighted_mean")
    assert seen >= expected | {(op, None) for op in others}


def test_the_page_names_every_operator_attribute_and_constant() -> None:
    for op, form in OPERATORS.items():
        parts = [(form.attributes, form.constants), *form.kinds.values()]
        for name in [op, *form.kinds, *(key for part in parts for rules in part for key in rules)]:
            assert f"`{name}`" in PAGE, f"{op}: {name}"
    assert set(numpy_runtime.OPERATORS) == set(OPERATORS)


def test_the_complete_example_is_what_saving_writes(tmp_path: Path) -> None:
    program, declarations, _ = from_json(EXAMPLE)
    arrays = {
        "input.multiplier": [2139127680],
        "input.bias": [-272730456064],
        "head.weight": [[7, -8, 1, 0], [-1, 2, -3, 4]],
        "head.bias": [100, -100],
        "head.scores.multiplier": [1073741824, 1610612736],
        "head.scores.shift": [22, 22],
    }
    program.constants = {
        name: Constant(np.array(arrays[name]), declared.bits, declared.signed)
        for name, declared in declarations.items()
    }
    save_checkpoint(program, tmp_path / "example")
    assert (tmp_path / "example" / "program.json").read_text(encoding="utf-8") == EXAMPLE
    data = (tmp_path / "example" / "weights.safetensors").read_bytes()
    lines = re.findall(r"^((?:[0-9a-f]{2} )+)  +[a-z.]+  ", PAGE, re.MULTILINE)
    assert data[-34:] == bytes.fromhex("".join(lines))
    image = np.array([[[[0, 50], [200, 255]]]], np.uint8)
    trace = dict(load_runtime(load_checkpoint(tmp_path / "example"), "numpy").trace(image))
    assert trace["flat"].tolist() == [[-127, -77, 72, 127]]
    assert trace["head"].tolist() == [[-101, 165]]
    assert trace["head.scores"].tolist() == [[-25856, 63360]]
