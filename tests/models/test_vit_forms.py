"""What ViTs differ in, by fields of the size: integers equal everywhere, every parameter trains, weights fold."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import intvit
from intvit.bench.device_step import DeviceStep, audit
from intvit.calibration import calibrate
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.vit.weights import adapt
from intvit.quant import set_mode
from tests.support.small_models import differences

# Form, preset, classes.
FORMS: list[tuple[dict[str, Any], str, int]] = [
    ({"class_token": False, "pool": "map", "activation": "gelu_tanh"}, "lut8", 0),
    ({"pool": "map", "registers": 2, "pool_prefix": True}, "ivit8_true8", 5),
    ({"pool": "avg", "norm": "after", "inner_norms": True}, "ibert8", 5),
    ({"pool": "avg", "norm": "after", "prefix_positions": False, "registers": 1}, "lut8_true8", 0),
    ({"pool": "avg"}, "lut8", 0),
    ({"pre_norm": True, "qkv_bias": False, "proj_bias": False, "activation": "quick_gelu"}, "ivit8", 5),
]


def images(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def vit(preset: str, classes: int, **form: Any) -> ImageModel:
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": (16, 24), "patch_size": 8, "width": 24, "heads": 3, "depth": 2}
    model = intvit.create_model("deit_t", quant=preset, num_classes=classes, **small, **form)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("form", "preset", "classes"), FORMS)
def test_every_operator_is_equal_and_every_parameter_trains(form, preset: str, classes: int, tmp_path) -> None:
    model, pixels = vit(preset, classes, **form), images()
    real = model(pixels)
    calibrate(model, pixels)
    assert differences(model, pixels, tmp_path / "integer") == []
    near = model.integer_scores(pixels) * model.score_scale
    assert nn.functional.cosine_similarity(near.flatten(), real.flatten(), 0) > 0.98
    model.train()
    (model(pixels) * torch.randn(real.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("form", [{"class_token": False, "pool": "map"}, {"pool": "avg", "norm": "after"}])
def test_gradients_of_integers_are_near_those_of_floats(form) -> None:
    model, pixels = vit("lut8", 5, **form), images(16)
    gradients = []
    calibrate(model, pixels)
    for mode in ("float", "integer"):
        set_mode(model, mode)
        model.zero_grad()
        nn.functional.cross_entropy(model.train()(pixels), torch.arange(16) % 5).backward()
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
    for name, real in gradients[0].items():
        near = nn.functional.cosine_similarity(real.flatten(), gradients[1][name].flatten(), 0)
        assert near > 0.95, name


@pytest.mark.parametrize("form", [{"pool": "map"}, {"pool": "avg", "norm": "after", "inner_norms": True}])
def test_a_training_step_reads_nothing_on_the_host(form) -> None:
    sizes = {"patch": 8, "width": 24, "depth": 1, "heads": 3, **form}
    assert audit(DeviceStep("deit_t", "lut8", 2, (16, 24), sizes=sizes)).copies == []


def test_features_leave_as_wide_as_the_stream() -> None:
    model = vit("lut8", 0)
    calibrate(model, images())
    program = intvit.export(model)
    norm = next(operator for operator in program.operators if operator.op == "layernorm" and operator.name == "norm")
    assert norm.attributes["bits"] == 16
    assert program.values[program.output].shape == (24,)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"pool": "max"}, "pool='max': expected one of token, avg, map"),
        ({"class_token": False}, "pool=token: needs a class token"),
        ({"pool": "map", "norm": "after"}, "pool=map: needs norm=before"),
        ({"norm": "none"}, "norm=none: the class token goes to no classifier without a norm; say num_classes=0"),
        ({"distilled": True, "pool": "avg"}, "distilled: needs a class token, pool=token, norm=before"),
        ({"mlp_ratio": 0}, "mlp_ratio=0: expected a number above 0, such as 4.0"),
        ({"registers": -1}, "registers=-1: expected a whole number of at least 0"),
        ({"class_token": 1}, "class_token=1: expected True or False"),
    ],
)
def test_forms_that_make_no_sense_are_refused(form, message: str) -> None:
    with pytest.raises(IntVitError) as caught:
        vit("lut8", 5, **form)
    assert message in str(caught.value)


def test_the_mean_of_a_wide_stream_is_that_of_its_two_operands() -> None:
    """Every 16-bit code: 64 times the high operand and the low one are the code, rounded to 14 bits."""
    x = torch.arange(-(2**15), 2**15)
    high = ((x + 128) >> 8).clamp(-128, 127)
    low = ((x - 256 * high + 2) >> 2).clamp(-128, 127)
    assert torch.equal(64 * high + low, (x + 2) >> 2)


def test_layer_scale_joins_the_layer_before_it() -> None:
    generator = torch.Generator().manual_seed(0)
    gamma, weight, bias = (torch.randn(shape, generator=generator) for shape in ((4,), (4, 6), (4,)))
    state = {"blocks.0.mlp.fc2.weight": weight, "blocks.0.mlp.fc2.bias": bias, "blocks.0.ls2.gamma": gamma}
    folded, x = adapt(state, nn.Identity()), torch.randn(3, 6, generator=generator)
    assert sorted(folded) == ["blocks.0.mlp.fc2.bias", "blocks.0.mlp.fc2.weight"]
    ours = nn.functional.linear(x, folded["blocks.0.mlp.fc2.weight"], folded["blocks.0.mlp.fc2.bias"])
    assert torch.allclose(ours, gamma * nn.functional.linear(x, weight, bias), atol=1e-6)
    assert adapt(folded, nn.Identity()) == folded
    alone = {"blocks.0.ls1.gamma": gamma}
    assert adapt(alone, nn.Identity()) == alone  # for the caller to refuse: its layer is missing


def test_the_query_of_attention_pooling_joins_the_keys() -> None:
    model = vit("lut8", 0, class_token=False, pool="map")
    generator = torch.Generator().manual_seed(0)
    width, heads, size = 24, 3, 8
    shapes = {"latent": (1, 1, width), "q.weight": (width, width), "q.bias": (width,)}
    shapes |= {"kv.weight": (2 * width, width), "kv.bias": (2 * width,)}
    state = {f"attn_pool.{key}": torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    folded, x = model.adapt(state), torch.randn(5, width, generator=generator)
    query = nn.functional.linear(state["attn_pool.latent"].flatten(), state["attn_pool.q.weight"])
    query = (query + state["attn_pool.q.bias"]).view(heads, size)
    keys = nn.functional.linear(x, state["attn_pool.kv.weight"], state["attn_pool.kv.bias"])[:, :width]
    logits = torch.einsum("hd,nhd->nh", query, keys.view(5, heads, size)) / math.sqrt(size)
    ours = x @ folded["attn_pool.logits.weight"].T
    assert torch.allclose(ours.softmax(0), logits.softmax(0), atol=1e-5)
    assert torch.equal(folded["attn_pool.value.bias"], state["attn_pool.kv.bias"][width:])
    assert sorted(folded) == [f"attn_pool.{key}" for key in ("logits.weight", "value.bias", "value.weight")]
