"""`check` refuses what breaks the format, in one line that names the operator or constant."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from intvit.program import Constant, Operator, Program, ProgramError, Value, check, infer_output
from tests.support.programs import dense_program
from tests.support.random_programs import random_program


def changed(change: Callable[[Program], None], seed: int = 2) -> str:
    """The one-line error of a random program after a change."""
    program = copy.deepcopy(random_program(seed))
    change(program)
    with pytest.raises(ProgramError) as error:
        check(program)
    message = str(error.value)
    assert "\n" not in message
    return message


def index(program: Program, op: str, **attributes: str) -> int:
    """Index of the first operator of a kind."""
    for i, operator in enumerate(program.operators):
        if operator.op == op and attributes.items() <= operator.attributes.items():
            return i
    raise AssertionError(f"no {op} with {attributes}")


def seed_with(op: str, **attributes: str) -> int:
    for seed in range(48):
        if any(o.op == op and attributes.items() <= o.attributes.items() for o in random_program(seed).operators):
            return seed
    raise AssertionError(f"no program has {op} with {attributes}")


def edit(op: str, kind: dict[str, str] | None = None, /, **attributes: object) -> str:
    """The error after changing attributes of the first such operator; None removes one."""
    kind = kind or {}

    def change(program: Program) -> None:
        i = index(program, op, **kind)
        new = {k: v for k, v in (program.operators[i].attributes | attributes).items() if v is not None}
        program.operators[i] = replace(program.operators[i], attributes=new)

    return changed(change, seed_with(op, **kind))


def edit_constant(op: str, role: str, new: Callable[[Constant], Constant], kind: dict[str, str] | None = None) -> str:
    """The error after replacing a constant of the first such operator."""
    kind = kind or {}

    def change(program: Program) -> None:
        name = program.operators[index(program, op, **kind)].constants[role]
        program.constants[name] = new(program.constants[name])

    return changed(change, seed_with(op, **kind))


@pytest.mark.parametrize("seed", range(48))
def test_random_programs_pass(seed: int) -> None:
    check(random_program(seed))


def test_graph_order_is_checked() -> None:
    def swap(program: Program) -> None:
        program.operators[2], program.operators[3] = program.operators[3], program.operators[2]

    assert changed(swap) == (
        "operator 'patch_embed.requantize' (requantize): input 'patch_embed.proj' is not defined before its use "
        "(a later operator computes it)"
    )

    def misspell(program: Program) -> None:
        program.operators[1] = replace(program.operators[1], inputs=("nothing",))

    assert changed(misspell).endswith("input 'nothing' is not defined before its use (nothing computes it)")


def test_names_are_unique_and_equal_outputs() -> None:
    def repeat(program: Program) -> None:
        program.operators.append(program.operators[-1])

    assert changed(repeat).endswith("the name 'head.scores' is taken; names of operators are unique")

    def rename(program: Program) -> None:
        program.operators[0] = replace(program.operators[0], output="other")

    assert changed(rename).endswith("output is named 'other', expected the operator's own name")


def test_declared_values_must_agree_with_inference() -> None:
    def widen(program: Program) -> None:
        program.values["tokens"] = replace(program.values["tokens"], bits=17)

    assert "'tokens' (concat): output is declared as" in changed(widen)

    def forget(program: Program) -> None:
        del program.values["tokens"]

    assert changed(forget).endswith("output 'tokens' is not among the values")

    def invent(program: Program) -> None:
        program.values["ghost"] = Value((1,), 8, True)

    assert changed(invent) == "value 'ghost' is declared, but no operator computes it"


def test_input_and_output_are_checked() -> None:
    def float_image(program: Program) -> None:
        program.values["image"] = replace(program.values["image"], signed=True)

    assert "must be an 8-bit unsigned image" in changed(float_image)
    assert "is computed by no operator" in changed(lambda program: setattr(program, "output", "nothing"))
    assert "must be signed scores of shape [classes]" in changed(lambda program: setattr(program, "output", "norm"))
    assert "2 class names for" in changed(lambda program: setattr(program, "classes", ["a", "b"]))


def test_constants_are_checked() -> None:
    def spare(program: Program) -> None:
        program.constants["spare"] = Constant(np.zeros(1, np.int8), 8)

    assert changed(spare) == "constant 'spare' is used by no operator; drop it"
    floats = edit_constant("linear", "weight", lambda c: Constant(c.array.astype(np.float32), 8))
    assert floats == "constant 'patch_embed.proj.weight' has type float32, expected a numpy array of integers"
    large = edit_constant("linear", "weight", lambda c: Constant(np.full(c.array.shape, 8), 4))
    assert large.endswith("holds values 8..8, outside its 4 signed bits (-8..7)")
    assert "expected 1 to 64" in edit_constant("linear", "weight", lambda c: Constant(c.array, 65))
    assert "at most 8 allowed" in edit_constant("linear", "weight", lambda c: Constant(c.array, 9))
    shape = edit_constant("linear", "bias", lambda c: Constant(np.append(c.array, 0), 32))
    assert "constant 'bias' has shape" in shape
    assert "expected [N] with N = " in shape
    shape = edit_constant("requantize", "shift", lambda c: Constant(np.ones((1, 1), np.int8), 8))
    assert "expected [1] or [C]" in shape
    assert "holds 0, expected at least 1" in edit_constant("requantize", "shift", lambda c: Constant(c.array * 0, 8))
    assert "exceeds" in edit_constant("requantize", "shift", lambda c: Constant(c.array * 0 + 53, 8))
    low = edit_constant("requantize", "multiplier", lambda c: Constant(np.full(c.array.shape, -(2**31)), 32))
    assert "holds -2147483648, expected at least -2147483647" in low


def test_attributes_are_checked() -> None:
    assert "attribute 'bits' is missing" in edit("requantize", bits=None)
    assert "attribute 'bits' is 8.0, expected an integer from 2 to 32" in edit("requantize", bits=8.0)
    assert "attribute 'bits' is True" in edit("requantize", bits=True)
    assert "attribute 'signed' is 1, expected true or false" in edit("requantize", signed=1)
    assert "unknown attribute 'mode'; known: bits, signed" in edit("requantize", mode="fast")
    assert "attribute 'kind' is 'exp', expected one of table, shift" in edit("softmax", kind="exp")
    assert "unknown attribute 'newton_steps'" in edit("layernorm", {"method": "exact"}, newton_steps=10)
    assert "does not reshape to [1]" in edit("reshape", shape=(1,))
    assert "are not a permutation" in edit("transpose", axes=(0, 1))
    assert "is outside the shape" in edit("concat", axis=3)
    assert "does not divide the image" in edit("patches", patch=64)
    assert "do not multiply" in edit("matmul", {"transpose_b": True}, transpose_b=False)


def test_values_have_an_axis_and_products_two() -> None:
    def flatten(program: Program) -> None:
        program.values["tokens"] = replace(program.values["tokens"], shape=())

    assert "value 'tokens' has shape [], expected an axis or more" in changed(flatten)
    row = Value((3,), 8, True)
    with pytest.raises(ProgramError, match="inputs need two axes at least"):
        infer_output(Operator("matmul", "y", ("a", "b"), "y", {"transpose_b": True}), [row, row], {})


def test_a_slice_must_hold_something_of_its_axis() -> None:
    assert "is empty or outside axis 0" in edit("slice", start=0, stop=99)
    assert "is empty or outside axis 0" in edit("slice", start=1, stop=1)


def test_unknown_operators_and_wrong_inputs_are_named() -> None:
    def rename(program: Program) -> None:
        program.operators[1] = replace(program.operators[1], op="conv")

    assert changed(rename).startswith(
        "operator 'patch_embed.patches': unknown op 'conv'; known: quantize_input, patches"
    )

    def starve(program: Program) -> None:
        program.operators[1] = replace(program.operators[1], inputs=())

    assert changed(starve).endswith("has 0 inputs, expected 1")


def test_wide_operands_are_refused() -> None:
    wide, narrow = Value((2, 3), 16, True), Value((2, 3), 8, True)
    constants = {"weight": Constant(np.ones((1, 3), np.int8), 8), "bias": Constant(np.zeros(1, np.int8), 8)}
    with pytest.raises(ProgramError, match="input has 16 bits, at most 8 allowed; requantize it first"):
        infer_output(Operator("linear", "y", ("x",), "y"), [wide], constants)
    with pytest.raises(ProgramError, match="second input has 16 bits"):
        infer_output(Operator("matmul", "y", ("a", "b"), "y", {"transpose_b": True}), [narrow, wide], {})
    one = {role: Constant(np.ones(1, np.int8), 8) for role in ("multiplier_a", "multiplier_b", "shift")}
    with pytest.raises(ProgramError, match="second input has 32 bits, at most 16 allowed; the accumulator comes first"):
        infer_output(Operator("add", "y", ("a", "b"), "y", {"bits": 8}), [narrow, Value((2, 3), 32, True)], one)


def test_only_probabilities_may_be_wide_in_a_matmul() -> None:
    shift = {"multiplier": Constant(np.array([1]), 32), "shift": Constant(np.array([1]), 8)}
    constants = {"m": Constant(np.array([2]), 32), "b": Constant(np.array([0]), 64), **shift}
    operators = [
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, {"multiplier": "m", "bias": "b"}),
        Operator("requantize", "wide", ("x",), "wide", {"bits": 9, "signed": True}, {role: role for role in shift}),
        Operator("matmul", "product", ("wide", "x"), "product", {"transpose_b": True}),
        Operator("reshape", "scores", ("product",), "scores", {"shape": (4,)}),
    ]
    shapes = {"image": (1, 2, 3), "x": (1, 2, 3), "wide": (1, 2, 3), "product": (1, 2, 2), "scores": (4,)}
    widths = {"image": 8, "x": 8, "wide": 9, "product": 32, "scores": 32}
    values = {name: Value(shape, widths[name], name != "image") for name, shape in shapes.items()}
    with pytest.raises(
        ProgramError, match=r"'product' .*: first input has 9 bits, allowed only for the output of softmax or"
    ):
        check(Program("image", "scores", values, constants, operators))


def test_softmax_sums_and_significant_bits_are_checked() -> None:
    assert "may sum to 2^31 or more; lower n" in edit("softmax", {"kind": "shift"}, n=40)
    assert "expected at least 32768; raise n" in edit(
        "softmax", {"kind": "shift", "normalization": "rounded"}, n=0, x0=-16
    )
    table = {"kind": "table", "normalization": "rounded"}
    assert "the exponential of 0 is 0" in edit_constant(
        "softmax", "table", lambda c: Constant(c.array * 0, 31, False), table
    )
    tall = edit_constant("softmax", "table", lambda c: Constant(c.array * 0 + 2**31 - 1, 31, False), table)
    assert "may sum to 2^31 or more" in tall
    assert "the exponential reaches -" in edit("softmax", {"kind": "polynomial"}, c=-(2**40))
    assert "expected at most 62 (the deepest right shift)" in edit("softmax", {"kind": "polynomial"}, n=40, u=-40)


def test_weights_and_their_means_are_checked() -> None:
    assert "expected at least 1073741824; raise n" in edit("exponential", multiplier=1, shift=31)
    assert "shift 46 exceeds 45, the cap for 8 output bits" in edit("exponential", {"bits": 8}, shift=46)
    assert "attribute 'multiplier' is 0, expected an integer from 1" in edit("exponential", multiplier=0)
    assert "the exponential reaches -" in edit("exponential", {"kind": "polynomial"}, c=-(2**40))
    assert "shift 50 exceeds" in edit("weighted_mean", shift=50)
    assert "attribute 'multiplier' is -1, expected an integer from 0" in edit("weighted_mean", multiplier=-1)

    def other_weights(program: Program) -> None:
        i = index(program, "weighted_mean")
        sums = program.operators[i].inputs[0]
        program.operators[i] = replace(program.operators[i], inputs=(sums, "blocks.0.attn.q"))

    message = changed(other_weights, seed_with("weighted_mean"))
    assert "first input must be the matmul whose first input is 'blocks.0.attn.q'" in message

    def probabilities(program: Program) -> None:
        i = index(program, "exponential")
        kept = {k: v for k, v in program.operators[i].attributes.items() if k not in ("multiplier", "shift")}
        softmax = replace(program.operators[i], op="softmax", attributes=kept | {"normalization": "rounded"})
        program.operators[i] = softmax

    message = changed(probabilities, seed_with("exponential"))
    assert "second input must be the output of exponential" in message


def test_masks_and_gathers_are_checked() -> None:
    seed = next(s for s in range(48) if any("mask" in o.constants for o in random_program(s).operators))

    def masked(new: Callable[[np.ndarray], np.ndarray]) -> str:
        def change(program: Program) -> None:
            operator = next(o for o in program.operators if "mask" in o.constants)
            name = operator.constants["mask"]
            program.constants[name] = Constant(new(program.constants[name].array), 8)

        return changed(change, seed)

    assert "excludes every logit of a row" in masked(lambda mask: mask * 0 + 1)
    assert "constant 'mask' has shape" in masked(lambda mask: mask[..., :-1])
    assert "constant 'mask' has shape" in masked(lambda mask: mask[0])
    assert "holds 2, expected at most 1" in masked(lambda mask: mask * 0 + 2)
    assert "index 99 is outside axis 0" in edit_constant("gather", "index", lambda c: Constant(c.array * 0 + 99, 32))
    low = edit_constant("gather", "index", lambda c: Constant(c.array * 0 - 2, 32))
    assert "holds -2, expected at least -1" in low
    assert "constant 'index' is empty" in edit_constant("gather", "index", lambda c: Constant(c.array[:0], 32))


def test_piecewise_bounds_ascend() -> None:
    for seed in range(48):
        program = random_program(seed)
        for operator in program.operators:
            if operator.attributes.get("kind") == "piecewise":
                name = operator.constants["bounds"]
                if len(np.unique(program.constants[name].array)) > 1:
                    program.constants[name] = Constant(program.constants[name].array[::-1], 32)
                    with pytest.raises(ProgramError, match="constant 'bounds' does not ascend"):
                        check(program)
                    return
    raise AssertionError("no random program has several bounds")


def test_gelu_parameters_are_checked() -> None:
    assert "may sum to 2^31 or more; lower n" in edit("gelu", {"kind": "shift"}, n=40)
    assert "leaves the output range -8..7" in edit("gelu", {"kind": "table", "bits": 8}, bits=4)
    assert "exceeds" in edit("gelu", {"kind": "shift"}, shift=60)
    assert "expected an integer from 31 to 46" in edit("gelu", {"kind": "shift"}, reciprocal_bits=47)
    assert "expected an integer from 0 to 127" in edit("gelu", {"kind": "shift"}, limit=128)


def test_the_limit_of_shift_gelu_is_an_input_that_can_occur() -> None:
    edited = 0
    for seed in range(48):
        program = random_program(seed)
        for operator in program.operators:
            bits = program.values[operator.inputs[0]].bits if operator.op == "gelu" else 8
            if operator.attributes.get("kind") == "shift" and bits < 8:
                operator.attributes["limit"], edited = 2 ** (bits - 1), edited + 1
                with pytest.raises(ProgramError, match=f"exceeds the largest input, {2 ** (bits - 1) - 1}"):
                    check(program)
    assert edited


def test_upsample_and_argmax_end_a_program() -> None:
    program = dense_program(3, (2, 2), 4, ("upsample", "argmax"))
    x, scores, upsample, argmax = program.operators

    def refused(*operators: Operator, output: str) -> str:
        changed = replace(program, output=output, operators=list(operators), values={"image": program.values["image"]})
        for operator in operators:
            held = {role: program.constants[name] for role, name in operator.constants.items()}
            inputs = [changed.values[name] for name in operator.inputs]
            changed.values[operator.output] = infer_output(operator, inputs, held)
        with pytest.raises(ProgramError) as error:
            check(changed)
        return str(error.value)

    twice = replace(upsample, name="twice", output="twice", inputs=("upsample",))
    moved = Operator("slice", "moved", ("upsample",), "moved", {"axis": 0, "start": 0, "stop": 1})
    coarse = replace(argmax, inputs=("scores",))
    amid = "operator 'upsample' (upsample): stands amid the program; upsample, then argmax, may only end one"
    assert refused(x, scores, upsample, twice, output="twice") == amid
    assert refused(x, scores, upsample, moved, output="moved") == amid
    assert refused(x, scores, upsample, coarse, output="argmax") == (
        "operator 'argmax' (argmax): reads 'scores', expected the 'upsample' before it"
    )
    assert refused(x, scores, upsample, argmax, output="upsample").startswith("operator 'argmax' (argmax): ends the")


def test_class_names_are_as_many_as_dense_scores() -> None:
    for ends in (("upsample", "argmax"), ("upsample",), ("argmax",)):
        program = dense_program(3, (2, 2), 4, ends)
        assert program.num_classes == 3
        assert program.form == ("dense_scores" if ends == ("upsample",) else "labels")
        check(replace(program, classes=["a", "b", "c"]))
        with pytest.raises(ProgramError, match="2 class names for 3 scores"):
            check(replace(program, classes=["a", "b"]))


def test_the_forms_of_dense_operators_are_checked() -> None:
    program = dense_program(3, (2, 2), 4, ("upsample", "argmax"))
    upsample = program.operators[2]
    for factor, expected in ((3, "is 3, expected a power of two"), (1, "is 1, expected an integer from 2 to 256")):
        with pytest.raises(ProgramError, match=expected):
            infer_output(replace(upsample, attributes={"factor": factor}), [program.values["scores"]], {})
    for op in program.operators[2:]:
        for value in (Value((4,), 32, True), Value((3, 2, 2), 8, False)):
            with pytest.raises(ProgramError, match=r"expected signed \[K, "):
                infer_output(op, [value], {})
