"""The cuda runtime equals numpy: random programs fused and operator by operator, every preset, tensors and arrays."""

import threading
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("triton", reason="triton comes with intvit[cuda]")

import torch

from intvit.calibration import calibrate
from intvit.export.record import record
from intvit.models import MODELS
from intvit.models.build import create_model
from intvit.program import Constant, Operator, Program
from intvit.program.program import ProgramError
from intvit.runtime import load_runtime
from intvit.runtime.cuda import runtime as cuda_runtime
from intvit.runtime.cuda.lowering import lower
from intvit.runtime.cuda.runtime import CudaRuntime
from intvit.runtime.cuda.steps import Kind
from tests.support.programs import dense_images, dense_program, program_of
from tests.support.quick import slow_but
from tests.support.random_programs import images_for, random_program
from tests.support.registry_models import model_of, reduced
from tests.support.registry_models import random_images as images_of_size
from tests.support.small_models import PRESETS, extreme_images, prepared, random_images, small_model

FEW = ("ivit8", "lut8_true8", "ivit_paper", "w4a8")  # all kinds of LayerNorm, GELU and softmax but the polynomials


def assert_equal(program: Program, images: np.ndarray) -> None:
    runtime, reference = CudaRuntime(program), load_runtime(program, "numpy")
    for (name, value), (other, expected) in zip(runtime.trace(images), reference.trace(images), strict=True):
        assert name == other
        assert np.array_equal(value, expected), f"{program.provenance}: operator {name}"
    scores = runtime(images)
    assert scores.dtype == np.int32
    assert np.array_equal(scores, reference(images)), program.provenance


@pytest.mark.parametrize("seed", slow_but((0, 2, 3, 5), range(6)))
def test_random_programs_give_equal_integers(seed: int) -> None:
    program = random_program(seed)
    assert_equal(program, images_for(program, 3, seed))


@pytest.mark.parametrize("ends", [("upsample", "argmax"), ("upsample",), ("argmax",)])
def test_dense_outputs_are_equal(ends: tuple[str, ...]) -> None:
    for case in ((3, (1, 5), 4), (5, (3, 2), 2)):
        program = dense_program(*case, ends)
        assert_equal(program, dense_images(program, 1))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6, 96, 10))
def test_many_random_programs_give_equal_integers(first: int) -> None:
    for seed in range(first, first + 10):
        program = random_program(seed)
        assert_equal(program, images_for(program, 3, seed))


def test_programs_wider_than_tiles_give_equal_integers() -> None:
    program = random_program(1, wide=True)
    assert_equal(program, images_for(program, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_many_programs_wider_than_tiles_give_equal_integers(seed: int) -> None:
    program = random_program(seed, wide=True)
    assert_equal(program, images_for(program, 2, seed))


@pytest.mark.parametrize(
    ("form", "preset", "classes"),
    [
        ({"pool": "map", "registers": 2, "pre_norm": True}, "ivit_paper", 5),
        pytest.param({"class_token": False, "pool": "map"}, "lut8", 0, marks=pytest.mark.slow),
        pytest.param({"pool": "avg", "norm": "after", "inner_norms": True}, "ivit8", 5, marks=pytest.mark.slow),
        pytest.param({"norm": "none", "activation": "quick_gelu"}, "lut8_true8", 0, marks=pytest.mark.slow),
    ],
)
def test_forms_of_vits_give_equal_integers(form: dict, preset: str, classes: int) -> None:
    size = {"image_size": (16, 24), "patch_size": 8, "width": 32, "heads": 2, "depth": 1}
    model = create_model("deit_t", quant=preset, num_classes=classes, **size, **form)
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    calibrate(model, images)
    assert_equal(record(model), images.numpy())


def test_the_random_programs_reach_every_kind_of_step() -> None:
    kinds = set()
    for seed in range(96):
        for fuse in (True, False):
            kinds |= {step.kind for step in lower(random_program(seed), fuse=fuse).steps}
    assert kinds == set(Kind)


def small_swin(preset: str) -> Program:
    """One stage with shifted windows, masks and a mean over tokens."""
    torch.manual_seed(1)
    model = model_of("swin_t", preset, depths=(2,), heads=(3,), width=24).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    calibrate(model, [images_of_size(4, 56)])
    return record(model)


def assert_fused(program: Program) -> None:
    """Attention is one step with values that the linear layer stored, and nothing but the class token is copied."""
    kinds = Counter(step.kind for step in lower(program, fuse=True).steps)
    softmaxes = sum(operator.op in ("softmax", "exponential") for operator in program.operators)
    assert kinds[Kind.ATTENTION] == kinds[Kind.LINEAR_TURNED] == softmaxes > 0
    assert kinds[Kind.COPY] <= 1
    assert kinds.keys().isdisjoint({Kind.SOFTMAX, Kind.WEIGHTED_MEAN, Kind.ADD, Kind.LOOK_UP})


@pytest.mark.parametrize("preset", slow_but((*FEW, "ibert8", "ppoly8"), PRESETS))
def test_every_preset_gives_equal_scores(preset: str) -> None:
    program = record(prepared(small_model(preset, depth=1)))
    images = torch.cat((random_images(1, 1), extreme_images(4)[2:])).numpy()
    assert_fused(program)
    assert np.array_equal(CudaRuntime(program)(images), load_runtime(program, "numpy")(images))


@pytest.mark.parametrize("preset", slow_but(("lut8_true8", "w4a8"), PRESETS))
def test_swin_gives_equal_scores(preset: str) -> None:
    program, images = small_swin(preset), images_of_size(1, 56).numpy()
    assert_fused(program)
    assert np.array_equal(CudaRuntime(program)(images), load_runtime(program, "numpy")(images))


WIDTHS = {
    "two-bit weights": ["quant.bits.weight=2", "quant.bits.activation=2", "quant.bits.logits=4"],
    "sixteen-bit probabilities": ["quant/bits=r16s16", "quant.softmax.normalization=floor"],
    "narrow stream": ["quant.bits.residual=4", "quant.bits.residual_factors=true"],
}


@pytest.mark.parametrize("overrides", WIDTHS.values(), ids=WIDTHS.keys())
def test_widths_from_2_to_16_bits_give_equal_scores(overrides: list[str]) -> None:
    program, images = record(prepared(small_model("ivit8", overrides, depth=1))), random_images(2, 3).numpy()
    assert np.array_equal(CudaRuntime(program)(images), load_runtime(program, "numpy")(images))


def test_both_heads_of_a_distilled_model_give_equal_scores() -> None:
    model, images = model_of("deit_t_distilled", "ivit8"), images_of_size(1, 32)
    calibrate(model, [images])
    program = record(model)
    assert np.array_equal(CudaRuntime(program)(images.numpy()), load_runtime(program, "numpy")(images.numpy()))


def test_images_that_are_not_square_give_equal_scores() -> None:
    model, images = model_of("deit_t", "ivit8", image_size=(32, 48)), images_of_size(1, 32, 48)
    calibrate(model, [images])
    program = record(model)
    assert_fused(program)
    assert np.array_equal(CudaRuntime(program)(images.numpy()), load_runtime(program, "numpy")(images.numpy()))


def values_read_twice() -> Program:
    """One head without an axis for it, whose values also go around the attention."""
    rng = np.random.default_rng(1)

    def per_channel(name: str, size: int, shift: int) -> dict[str, Constant]:
        multiplier = Constant(rng.integers(2**30, 2**31 - 1, size), 32)
        return {f"{name}.m": multiplier, f"{name}.e": Constant(np.full(size, shift), 8)}

    constants = {
        "in.m": Constant(np.array([2]), 32),
        "in.b": Constant(np.array([-256]), 64),
        "qkv.w": Constant(rng.integers(-128, 128, (60, 16)), 8),
        "qkv.b": Constant(rng.integers(-999, 999, 60), 32),
        "head.w": Constant(rng.integers(-128, 128, (5, 9 * 40)), 8),
        "head.b": Constant(rng.integers(-999, 999, 5), 32),
        "table": Constant(np.arange(255, -1, -1) << 14, 32),
        **per_channel("y", 60, 40),
        **per_channel("logits", 1, 42),
        **per_channel("scores", 5, 20),
    }
    pixels, scaled = {"multiplier": "in.m", "bias": "in.b"}, {"multiplier": "y.m", "shift": "y.e"}
    weights = {"kind": "table", "bits": 8, "multiplier": 2**30, "shift": 44}
    parts = [
        Operator("slice", name, ("y",), name, {"axis": 1, "start": 20 * i, "stop": 20 * i + 20})
        for i, name in enumerate("qkv")
    ]
    return program_of(
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, pixels),
        Operator("patches", "p", ("x",), "p", {"patch": 4}),
        Operator("linear", "qkv", ("p",), "qkv", {}, {"weight": "qkv.w", "bias": "qkv.b"}),
        Operator("requantize", "y", ("qkv",), "y", {"bits": 8, "signed": True}, scaled),
        *parts,
        Operator("matmul", "products", ("q", "k"), "products", {"transpose_b": True}),
        Operator(
            "requantize", "logits", ("products",), "logits", {"bits": 8, "signed": True},
            {"multiplier": "logits.m", "shift": "logits.e"},
        ),
        Operator("exponential", "weights", ("logits",), "weights", weights, {"table": "table"}),
        Operator("matmul", "sums", ("weights", "v"), "sums", {"transpose_b": False}),
        Operator("weighted_mean", "mean", ("sums", "weights"), "mean", {"bits": 8, "multiplier": 2**45, "shift": 45}),
        Operator("concat", "both", ("mean", "v"), "both", {"axis": 1}),
        Operator("reshape", "flat", ("both",), "flat", {"shape": (9 * 40,)}),
        Operator("linear", "head", ("flat",), "head", {}, {"weight": "head.w", "bias": "head.b"}),
        Operator(
            "requantize", "scores", ("head",), "scores", {"bits": 32, "signed": True},
            {"multiplier": "scores.m", "shift": "scores.e"},
        ),
        constants=constants,
        shape=(1, 12, 12),
    )  # fmt: skip


def test_values_that_others_read_too_stay_where_they_are() -> None:
    program = values_read_twice()
    kinds = Counter(step.kind for step in lower(program, fuse=True).steps)
    assert (kinds[Kind.ATTENTION], kinds[Kind.LINEAR_TURNED]) == (1, 0)
    assert_equal(program, images_for(program, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_equal_scores(name: str) -> None:
    model = model_of(name, "ivit8")
    images = images_of_size(1, reduced(name)[0])
    calibrate(model, [images])
    program = record(model)
    assert_fused(program)
    assert np.array_equal(CudaRuntime(program)(images.numpy()), load_runtime(program, "numpy")(images.numpy()))


def test_tensors_give_tensors_and_are_read_where_they_are() -> None:
    program = random_program(3)
    images, runtime = images_for(program, 5), CudaRuntime(program)
    expected = load_runtime(program, "numpy")(images)
    pixels = torch.from_numpy(images).to(runtime.device)
    scores = runtime(pixels)
    assert (scores.dtype, scores.device) == (torch.int32, pixels.device)
    again = runtime(pixels.flip(0))
    assert np.array_equal(scores.cpu().numpy(), expected)  # later calls leave the scores of earlier ones alone
    assert np.array_equal(again.cpu().numpy(), expected[::-1])
    assert np.array_equal(runtime(pixels[1:4]).cpu().numpy(), expected[1:4])  # a view that begins elsewhere


def test_large_batches_are_chunked_and_few_sizes_kept() -> None:
    program = random_program(8)
    images, runtime = images_for(program, 11), CudaRuntime(program)
    runtime._chunk = 4
    assert np.array_equal(runtime(images), load_runtime(program, "numpy")(images))
    assert sorted(size for _, size in runtime._kept) == [3, 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_runtime, "GRAPHS", 2)
        runtime(images[:2])
    assert sorted(size for _, size in runtime._kept) == [2, 3]


def test_threads_do_not_meet() -> None:
    program = random_program(8)
    images, runtime = images_for(program, 8), CudaRuntime(program)
    expected, wrong = load_runtime(program, "numpy")(images), []

    def work(start: int) -> None:
        for _ in range(2):
            if not np.array_equal(runtime(images[start : start + 2]), expected[start : start + 2]):
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_is_stated() -> None:
    runtime = CudaRuntime(random_program(3))
    assert runtime.weight_memory > 0
    assert runtime.buffer_memory(8) == 8 * runtime.buffer_memory(1) > 0
    assert "MiB an image" in repr(runtime)


def test_packed_weights_stay_packed_on_the_device() -> None:
    weights = {preset: CudaRuntime(record(prepared(small_model(preset)))) for preset in ("w4a8", "lut8")}
    products = {
        preset: sum(constants["weight"].nbytes for constants in runtime._constants.of_steps if "weight" in constants)
        for preset, runtime in weights.items()
    }
    assert products["w4a8"] < products["lut8"]


def test_other_images_are_refused() -> None:
    program = random_program(0)
    runtime, size = CudaRuntime(program), program.values["image"].shape
    with pytest.raises(ProgramError, match="expected uint8"):
        runtime(torch.zeros(1, *size))
    with pytest.raises(ProgramError, match="expected \\[batch"):
        runtime(torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    with pytest.raises(ProgramError, match="numpy array of uint8"):
        runtime(np.zeros((1, *size)))
