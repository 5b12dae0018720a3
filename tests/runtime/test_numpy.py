"""The numpy runtime: equal to Python's big integers, to worked examples, and strict about its images."""

import copy
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from intvit.program import Constant, Operator, Program, ProgramError, Value, infer_output, save_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.numpy import OPERATORS, NumpyRuntime, OperatorContext, integer_sqrt
from tests.support import big_integers
from tests.support.random_programs import images_for, random_program


@pytest.mark.parametrize("seed", range(36))
def test_every_operator_equals_big_integers(seed: int) -> None:
    program = random_program(seed)
    images = images_for(program, 6, seed)[[1, 2, 5]]
    references = [list(big_integers.trace(program, image)) for image in images]
    for step, (name, value) in enumerate(load_runtime(program, "numpy").trace(images)):
        assert value.dtype == np.int64
        for reference, result in zip(references, value, strict=True):
            assert reference[step][0] == name
            assert result.tolist() == reference[step][1].tolist(), (name, program.operators[step])


def test_a_few_seeds_hold_every_kind() -> None:
    operators = [operator for seed in range(36) for operator in random_program(seed).operators]
    kinds = {
        (o.op, o.attributes.get("kind", o.attributes.get("method")), o.attributes.get("normalization"))
        for o in operators
    }
    names = ("table", "shift", "polynomial", "piecewise")
    assert kinds >= {("softmax", kind, normalization) for kind in names for normalization in ("rounded", "floor")}
    assert kinds >= {(op, kind, None) for kind in names for op in ("exponential", "gelu")}
    assert kinds >= {("layernorm", method, None) for method in ("exact", "ivit", "ibert")}
    assert {op for op, _, _ in kinds} == set(OPERATORS)
    masked = {operator.op for operator in operators if "mask" in operator.constants}
    assert masked == {"softmax", "exponential"}
    assert any(operator.op == "add" and operator.inputs[1].endswith("bias") for operator in operators)


WIDTHS = {"weight": 8, "table": 16}  # of constants; others: 32


def step(op: str, x: list | np.ndarray, bits: int, attributes: dict, *, others: tuple = (), **constants: list) -> list:
    """One operator of the runtime on signed values of `bits` bits (one image, without batch axis)."""
    arrays = [np.asarray(x), *map(np.asarray, others)]
    values = {f"x{i}": Value(array.shape, bits, True) for i, array in enumerate(arrays)}
    held = {role: Constant(np.asarray(array), WIDTHS.get(role, 32)) for role, array in constants.items()}
    operator = Operator(op, "y", tuple(values), "y", attributes, {role: role for role in held})
    values["y"] = infer_output(operator, list(values.values()), held)
    context = OperatorContext(Program("x0", "y", values, held, [operator]), operator)
    return OPERATORS[op](context)(*(array[None] for array in arrays))[0].tolist()


def test_requantize_rounds_half_up_and_saturates() -> None:
    # 3/4: 10 -> 7.5 -> 8, -10 -> -7.5 -> -7, 200 -> 150 -> 127
    result = step("requantize", [10, -10, 200, -200], 32, {"bits": 8, "signed": True}, multiplier=[3 << 20], shift=[22])
    assert result == [8, -7, 127, -128]
    result = step("requantize", [10, -10, 200, 400], 32, {"bits": 8, "signed": False}, multiplier=[3 << 20], shift=[22])
    assert result == [8, 0, 150, 255]


def test_requantize_just_below_the_half_rounds_down() -> None:
    assert 23311 * 1509346321 == 2**45 - 1
    attributes = {"bits": 8, "signed": True}
    assert step("requantize", [23311, 23312], 32, attributes, multiplier=[1509346321], shift=[46]) == [0, 1]


def test_add_rounds_once() -> None:
    # 1/4 and 1/4: rounded apart 0 + 0 or 1 + 1, together 0.5 -> 1
    attributes, constants = {"bits": 8}, {"multiplier_a": [1], "multiplier_b": [1], "shift": [2]}
    assert step("add", [1, -1, 3], 8, attributes, others=([1, -1, 3],), **constants) == [1, 0, 2]


def test_layernorm_exact_of_the_worked_example() -> None:
    # x = (1, 2, 3, 6): S = 12, T = 4*50 - 144 = 56, R = 7, F = floor(2^40 / 7), y = (-8, -4, 0, 12)
    attributes = {"method": "exact", "bits": 8, "normalizer_shift": 30}
    n = [(y * (2**40 // 7)) >> 30 for y in (-8, -4, 0, 12)]
    assert n == [-1171, -586, 0, 1755]
    constants = {"multiplier": [1 << 20] * 4, "bias": [0, 0, 5 << 25, 0], "shift": [25] * 4}
    assert step("layernorm", [[1, 2, 3, 6]], 8, attributes, **constants) == [[-37, -18, 5, 55]]


@pytest.mark.parametrize("method", ["exact", "ivit", "ibert"])
def test_layernorm_of_equal_entries_gives_beta(method: str) -> None:
    attributes = {"method": method, "bits": 8, "normalizer_shift": 8}
    attributes |= {"ivit": {"newton_steps": 10}, "ibert": {"square_shift": 2}}.get(method, {})
    constants = {"multiplier": [1 << 20] * 3, "bias": [7 << 25, -(3 << 25), 0], "shift": [25] * 3}
    assert step("layernorm", [[-77] * 3], 8, attributes, **constants) == [[7, -3, 0]]


def test_ten_newton_steps_overestimate_a_small_root() -> None:
    # the published iteration from 2^16 gives 68 for a root of 32 (V = 1024)
    assert big_integers.newton(1024, 10) == 68


def test_shiftmax_of_the_worked_example() -> None:
    # scale 1/16: x0 = -16, n = 15. d = (0, 4, 12): E = (16 << 15, 13 << 15, 15 << 14)
    attributes = {"kind": "shift", "bits": 8, "normalization": "rounded", "x0": -16, "n": 15, "fraction_bits": 0}
    logits = [100, 96, 88]
    values = [big_integers.shift_exponential(x - 100, attributes) for x in logits]
    assert values == [16 << 15, 13 << 15, 15 << 14]
    assert step("softmax", [logits], 8, attributes) == [[112, 91, 53]]
    floor = attributes | {"normalization": "floor"}
    assert step("softmax", [logits], 8, floor) == [[56, 45, 26]]


def test_a_lone_logit_has_the_largest_probability() -> None:
    attributes = {"kind": "shift", "bits": 8, "normalization": "rounded", "x0": -16, "n": 15, "fraction_bits": 0}
    assert step("softmax", [[5], [-128]], 8, attributes) == [[255], [255]]


def test_gelu_table_is_indexed_from_the_lowest_input() -> None:
    table = list(range(10, 26))
    assert step("gelu", [-8, -1, 0, 7], 4, {"kind": "table", "bits": 8}, table=table) == [10, 17, 18, 25]


def test_linear_is_exact_where_float32_is_not() -> None:
    # 2^24 + 1 is no float32
    weight = np.full((1, 2048), 127, np.int8)
    weight[0, 0] = 1
    x = np.full(2048, 127)
    x[0] = 1
    assert step("linear", x, 8, {}, weight=weight, bias=[-5]) == [2047 * 127 * 127 + 1 - 5]


def test_integer_sqrt_is_exact_around_squares() -> None:
    roots = np.unique(
        np.concatenate([2 ** np.arange(31), 2 ** np.arange(31) - 1, np.array([94906265, 94906266, 2**31 - 1])])
    )
    squares = roots * roots
    for offset in (-1, 0, 1):
        v = squares + offset
        v = v[(v >= 0) & (v < 2**62)]
        assert integer_sqrt(v).tolist() == [math.isqrt(int(x)) for x in v]


def test_scores_are_int32_and_equal_the_last_trace() -> None:
    program = random_program(3)
    runtime, images = load_runtime(program, "numpy"), images_for(program, 5)
    scores = runtime(images)
    assert scores.dtype == np.int32
    assert scores.shape == (5, *program.values[program.output].shape)
    traced = dict(runtime.trace(images))
    assert list(traced) == [operator.name for operator in program.operators]
    assert np.array_equal(traced[program.output], scores)


def test_a_batch_equals_its_images_one_by_one() -> None:
    program = random_program(7)
    runtime, images = load_runtime(program, "numpy"), images_for(program, 5)
    assert np.array_equal(runtime(images), np.concatenate([runtime(images[i : i + 1]) for i in range(5)]))


def test_wrong_images_are_named_in_one_line() -> None:
    program = random_program(0)
    runtime, images = load_runtime(program, "numpy"), images_for(program, 2)
    for wrong, message in [
        (images.astype(np.float32), "images are of type float32, expected a numpy array of uint8"),
        (images.tolist(), "images are of type list"),
        (images[0], r"images have shape \[.*\], expected \[batch, 2, 12, 8\]"),
        (images[:0], r"images have shape \[0, "),
        (images[:, :, 1:], r"images have shape \[2, 2, 11, 8\], expected \[batch, 2, 12, 8\]"),
    ]:
        with pytest.raises(ProgramError, match=message) as error:
            runtime(wrong)
        assert "\n" not in str(error.value)


def test_an_unknown_runtime_is_refused_with_the_known_names() -> None:
    with pytest.raises(ProgramError, match="unknown runtime 'tpu'; there are cuda, native, numpy, "):
        load_runtime(random_program(0), "tpu")


def test_load_runtime_gives_the_numpy_runtime() -> None:
    assert isinstance(load_runtime(random_program(0), "numpy"), NumpyRuntime)


@pytest.mark.parametrize("name", ["numpy", "onnx", "torch"])
def test_a_runtime_is_pickled_and_copied_as_its_program(name: str) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="the onnx runtime needs onnxruntime")
    runtime = load_runtime(random_program(4), name)
    images = images_for(runtime.program, 2)
    for other in (pickle.loads(pickle.dumps(runtime)), copy.deepcopy(runtime)):
        np.testing.assert_array_equal(other(images), runtime(images))


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        blocked = ("torch", "pytorch_lightning", "lightning", "timm", "hydra", "omegaconf", "intvit.arithmetic")
        if any(name == b or name.startswith(b + ".") for b in blocked):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import numpy as np
from intvit.program import load_checkpoint
from intvit.runtime import load_runtime
program = load_checkpoint(sys.argv[1])
images = np.arange(2 * np.prod(program.values[program.input].shape)).reshape(2, *program.values[program.input].shape)
print(load_runtime(program, "numpy")((images % 251).astype(np.uint8)).tolist())
"""


def test_a_checkpoint_runs_without_torch_lightning_timm_and_hydra(tmp_path) -> None:
    program = random_program(5)
    save_checkpoint(program, tmp_path / "checkpoint")
    command = [sys.executable, "-c", BLOCKED, str(tmp_path / "checkpoint")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    shape = (2, *program.values[program.input].shape)
    images = (np.arange(np.prod(shape)).reshape(shape) % 251).astype(np.uint8)
    assert result.stdout.strip() == str(load_runtime(program, "numpy")(images).tolist())
