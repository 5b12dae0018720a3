"""Training on integers: gradients, observers, saving."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from intvit.calibration import calibrate
from intvit.config.presets import presets
from intvit.errors import IntVitError
from intvit.models import create_model
from intvit.quant import freeze_observers, set_mode
from intvit.quant.config import QuantConfigError
from intvit.quant.control import move_ranges
from intvit.quant.presets import compose_quant
from intvit.quant.quantizer import Quantizer, channel_scale
from intvit.quant.tensor import QTensor, handle

OBSERVER = compose_quant("lut8").observer


def small_model(preset: str, overrides: list[str] | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(
        "deit_t",
        image_size=16,
        patch_size=4,
        num_classes=5,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        quant=compose_quant(preset, overrides),
        width=24,
        depth=2,
    )
    with torch.no_grad():
        model.cls_token.normal_()
        for block in model.blocks:
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                linear.weight.mul_(8.0)
    return model


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def calibrated(model: nn.Module) -> nn.Module:
    calibrate(model, [images(16)])
    return model.train()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    labels = torch.arange(8) % 5
    nn.functional.cross_entropy(model(images(8, 1)), labels).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("preset", [name for name in presets("quant") if name != "fp32"])
def test_every_parameter_gets_a_gradient_that_points_where_the_float_one_does(preset: str) -> None:
    model = calibrated(small_model(preset)).eval()
    integer = gradients(model)
    set_mode(model, "float")
    reference = gradients(model)
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() > 0 for gradient in integer.values())
    a, b = (torch.cat([gradient.flatten() for gradient in side.values()]) for side in (integer, reference))
    # 16 residual bits and 8 elsewhere stay close; true 8 bit and narrower keep the direction.
    assert nn.functional.cosine_similarity(a, b, 0) > (0.9 if preset in ("lut8", "ppoly8", "ibert8") else 0.5)


@pytest.mark.slow  # fifteen compilations; test_kernels.py has one of each kernel
def test_compiled_steps_compute_the_eager_integers_and_their_gradients() -> None:
    eager = calibrated(small_model("ivit8", ["quant.compile=false"])).train()
    compiled = calibrated(small_model("ivit8", ["quant.compile=true"])).train()
    for step in range(2):  # observers move between the two
        assert torch.equal(eager(images(8, step)), compiled(images(8, step)))
    expected = gradients(eager)
    for name, gradient in gradients(compiled).items():
        # float32 sums in another order
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-5 * float(expected[name].abs().max())), name


def test_state_dict_restores_the_integers_exactly() -> None:
    model = calibrated(small_model("lut8_true8")).train()
    nn.functional.cross_entropy(model(images(8, 2)), torch.arange(8) % 5).backward()  # observers move
    copy = small_model("lut8_true8")
    copy.load_state_dict(model.state_dict())
    set_mode(copy, "integer")
    assert torch.equal(copy.eval().integer_scores(images(8, 3)), model.eval().integer_scores(images(8, 3)))


def test_observers_follow_in_training_until_they_are_frozen() -> None:
    model = small_model("lut8")
    model.cls_token.data.zero_()  # it would hold the first range where it is
    calibrated(model)
    ranges = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("statistic")}

    def moved() -> int:
        return sum(not torch.equal(ranges[name], b) for name, b in model.named_buffers() if name.endswith("statistic"))

    model.eval()(images(8, 4))
    assert moved() == 0
    freeze_observers(model, True)
    model.train()(images(8, 4))
    move_ranges(model)
    assert moved() == 0
    freeze_observers(model, False)
    expected = model(images(8, 4))
    assert moved() == 0  # a step quantizes with the ranges that it finds
    assert torch.equal(model.eval()(images(8, 4)), expected)
    move_ranges(model.train())
    assert moved() == len(ranges)


def test_integer_mode_without_calibration_names_the_quantizer() -> None:
    model = small_model("lut8")
    set_mode(model, "integer")
    with pytest.raises(IntVitError, match=r"embed\.output: no range yet"):
        model(images(1))


def test_a_saturated_code_sends_no_gradient_back() -> None:
    model = calibrated(small_model("lut8")).eval()
    gelu = model.blocks[0].mlp.act
    codes = torch.tensor([[[-128, -60, 0, 60, 127] + [1] * 91]], dtype=torch.int8)
    upstream = handle(*codes.shape).clone().requires_grad_()
    gelu.alone = True
    gelu(QTensor(codes, upstream, torch.tensor(0.05, dtype=torch.float64), 8)).handle.sum().backward()
    assert upstream.grad[0, 0, [0, 4]].tolist() == [0.0, 0.0]
    assert (upstream.grad[0, 0, 1:4] != 0).all()


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_observers_find_the_range_of_a_known_distribution(method: str) -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(8, method, replace(OBSERVER, percentile=99.0))
    values = torch.randn(64, 50, 40)
    values[0, 0, 0] = 50.0
    for batch in values.split(16):
        quantizer.collect(batch)
    quantizer.finish()
    limit = float(quantizer.scale()) * 127
    if method == "minmax":
        assert limit == pytest.approx(50.0)
    elif method == "percentile":
        assert limit == pytest.approx(2.576, abs=0.1)  # 99 % of |x| of a normal distribution
    else:
        errors = {c: rounding_error(values, c) for c in torch.linspace(1, 50, 200).tolist()}
        assert rounding_error(values, limit) <= 1.02 * min(errors.values())


def rounding_error(values: torch.Tensor, limit: float) -> float:
    scale = limit / 127
    return float(((values / scale).round().clamp(-128, 127) * scale - values).square().mean())


def test_residual_factors_spread_the_channels_over_the_range() -> None:
    quantizer = Quantizer(8, "minmax", OBSERVER, channels=4)
    x = torch.randn(4, 100, 4).clamp(-1, 1) * torch.tensor([8.0, 4.0, 1.9, 0.1])
    quantizer.collect(x)
    quantizer.finish()
    assert quantizer.factors.tolist() == [0, 1, 2, 3]
    assert math.isclose(float(quantizer.scale()) * 127, 8.0, rel_tol=0.05)


def test_wider_matmul_operands_and_unknown_keys_are_refused() -> None:
    for override, message in (
        ("quant.bits.activation=16", r"quant\.bits\.activation=16: expected 2 to 8"),
        ("quant.bits.probabilities=3", r"expected 4 to 16"),
        ("quant.bits.residual_factors=true", r"at most 8 bits"),
        ("+quant.overrides={blocks.*:{bits:{weight:9}}}", r"bits\.weight=9"),
    ):
        with pytest.raises(QuantConfigError, match=message):
            compose_quant("lut8", [override])
    with pytest.raises(ValueError, match=r"quant\.bits\.wieght: unknown key"):
        compose_quant("lut8", ["+quant.bits.wieght=4"])
    with pytest.raises(QuantConfigError, match=r"matches none of .*blocks\.0\.attn\.core"):
        small_model("lut8", ["+quant.overrides={blokcs.*:{bits:{weight:4}}}"])


def test_the_range_of_the_first_sum_holds_the_class_token() -> None:
    model = small_model("lut8_true8")
    model.cls_token.data[0, 0, 3] = 50.0
    calibrated(model)
    limit = channel_scale(model.embed.output.scale(), model.embed.output.factors) * 127
    assert (model.cls_token + model.pos_embed[:, :1]).abs()[0, 0, 3] <= limit[3] * 1.0001


@pytest.mark.parametrize("preset", ["lut8", "lut8_true8", "w4a8"])
def test_training_on_the_calibration_images_keeps_the_ranges_of_the_stream(preset: str) -> None:
    model = calibrated(small_model(preset, ["quant.observer.momentum=0.0"]))
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("add1.output.statistic")}
    model.train()(images(16))
    for name, buffer in model.named_buffers():
        if name in before:
            assert buffer.item() == pytest.approx(before[name].item(), rel=0.1), name


def test_autocast_does_not_touch_the_integers() -> None:
    model = calibrated(small_model("lut8")).eval()
    expected = model.integer_scores(images(8, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.integer_scores(images(8, 5)), expected)


def test_a_head_of_zeros_scores_zero() -> None:
    model = small_model("lut8").eval()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert calibrated(model).integer_scores(images(2)).abs().max() == 0


def test_weights_that_are_not_finite_are_named_at_calibration() -> None:
    model = small_model("lut8")
    model.blocks[1].mlp.fc1.weight.data[0, 0] = math.nan
    with pytest.raises(IntVitError, match=r"blocks\.1\.mlp\.fc1\.output: calibration met nan"):
        calibrated(model)


def test_heads_too_wide_for_exact_products_are_refused() -> None:
    with pytest.raises(IntVitError, match="at most 1024"):
        create_model(
            "deit_t",
            image_size=16,
            patch_size=8,
            num_classes=2,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            quant=compose_quant("lut8"),
            width=1025,
            heads=1,
            depth=1,
        )
