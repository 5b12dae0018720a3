"""Approximations of one's own keep the contract: trained, exported, certified and run everywhere, no edit in src/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES, exponent_table, gelu_table
from intvit.calibration import calibrate
from intvit.config.presets import presets
from intvit.errors import IntVitError
from intvit.evaluation.entry import evaluate
from intvit.export.record import record
from intvit.program import bounds, load_checkpoint, save_checkpoint
from intvit.quant.layers.pointwise import real_function
from intvit.quant.presets import compose_quant
from intvit.runtime import RUNTIMES, load_runtime
from intvit.training.entry import train
from tests.support.small_models import extreme_images, random_images, small_model
from tests.support.tiny_runs import composed, rows, tiny

ROOT = Path(__file__).parents[2]
HERE = [name for name in RUNTIMES if name != "cuda" or torch.cuda.is_available()]
OWN_GELU = "own_gelu:hard_gelu"
OWN_EXPONENTIAL = "own_exponential:halving"
HALVING = '''
"""e^-x as 2^-k, k the nearest number of halvings: a shift and nothing else."""

def halving(distances, scale, largest):
    halvings = (distances * int(scale * 1.4427 * (1 << 20)) + (1 << 19)) >> 20
    return (distances * 0 + largest) >> halvings.clamp(max=62)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both modules on the import path, as in the folder of train.py."""
    (tmp_path / "own_exponential.py").write_text(HALVING)
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_trained_run_with_own_functions_has_equal_integers_on_every_runtime(own, tmp_path, capsys):
    family = [f"quant.gelu.family={OWN_GELU}", f"quant.softmax.family={OWN_EXPONENTIAL}"]
    folder = tmp_path / "run"
    summary = train(tiny("quant=lut8", *family), folder)
    assert summary["integer"] is not None
    losses = [float(row["train/loss"]) for row in rows(folder) if row.get("train/loss")]
    assert sum(losses[-5:]) < sum(losses[:5])  # of an epoch: a step holds 32 images
    values = evaluate(composed(f"ckpt={folder}", f"runtimes=[{','.join(HERE)}]", config_name="evaluate"))
    assert set(values["runtimes"]) == {"torch", "numpy", "native", "onnx"}
    assert [runtime["mismatches"] for runtime in values["runtimes"].values()] == [0, 0, 0, 0]
    program = load_checkpoint(folder / "integer")
    assert program.provenance["functions"] == {
        "blocks.0.attn.core": OWN_EXPONENTIAL,
        "blocks.0.mlp.act": OWN_GELU,
    }
    kinds = {
        operator.op: operator.attributes["kind"] for operator in program.operators if "kind" in operator.attributes
    }
    assert kinds == {"exponential": "table", "gelu": "table"}
    proven = bounds(program)
    assert all(seen.margin >= 0 for entry in proven.values() for seen in entry.intermediates.values())


def test_a_function_that_changed_after_training_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changing.py"
    module.write_text("def f(codes, scale, output_scale):\n    return codes.clamp(min=0)\n")
    monkeypatch.setattr(GELU_FAMILIES, "_families", dict(GELU_FAMILIES._families))
    folder = tmp_path / "run"
    train(tiny("quant=lut8", "quant.gelu.family=changing:f", "schedule.qat=null", "schedule.frozen=null"), folder)
    config = composed(f"ckpt={folder}", "runtimes=[numpy]", "limit=8", config_name="evaluate")
    assert evaluate(config)["runtimes"]["numpy"]["mismatches"] == 0
    monkeypatch.setattr(sys.modules["changing"], "f", lambda codes, scale, output_scale: codes.clamp(min=1))
    del GELU_FAMILIES._families["changing:f"]
    with pytest.raises(IntVitError, match=r"changing:f gives other integers than when this run was trained"):
        evaluate(config)


@pytest.mark.parametrize("residual", ["r16", "true8"])
def test_random_models_with_own_functions_have_equal_integers_on_every_runtime(own, residual):
    overrides = [f"quant/bits={residual}", f"quant.gelu.family={OWN_GELU}", f"quant.softmax.family={OWN_EXPONENTIAL}"]
    model = small_model("lut8", overrides)
    calibrate(model, [random_images(8, 0)])
    images = torch.cat((random_images(16, 1), extreme_images(5)))
    scores = model.integer_scores(images).numpy()
    program = record(model)
    for name in HERE:
        assert np.array_equal(load_runtime(program, name)(images.numpy()), scores), name


def test_loading_a_checkpoint_never_imports_the_name_in_its_metadata(own, tmp_path):
    model = small_model("lut8", [f"quant.gelu.family={OWN_GELU}"])
    calibrate(model, [random_images(4, 0)])
    program = record(model)
    program.provenance["functions"]["blocks.0.mlp.act"] = "trap:spring"
    save_checkpoint(program, tmp_path / "integer")
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    code = (
        "import sys, numpy as np\n"
        "from intvit.runtime import load\n"
        "for name in sys.argv[2].split(','):\n"
        "    load(sys.argv[1], name)(np.zeros((1, 3, 32, 32), np.uint8))\n"
        "assert 'trap' not in sys.modules and 'own_gelu' not in sys.modules\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "integer"), ",".join(HERE)]
    subprocess.run(arguments, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert json.loads((tmp_path / "integer" / "program.json").read_text())["provenance"]["functions"]


@pytest.mark.parametrize("family", ["silu", "relu", "quick_gelu", "gelu_tanh"])
def test_every_activation_that_ships_keeps_the_contract_and_trains_along_its_own_function(family):
    model = small_model("lut8", [f"quant/gelu={family}"])
    calibrate(model, [random_images(8, 0)])
    images = random_images(8, 1)
    scores = model.integer_scores(images).numpy()
    program = record(model)
    assert program.provenance["functions"]["blocks.0.mlp.act"] == family
    for name in HERE:
        assert np.array_equal(load_runtime(program, name)(images.numpy()), scores), name
    act = model.blocks[0].mlp.act
    x = torch.linspace(-3, 3, 50)
    assert torch.equal(act(x), GELU_FAMILIES[family].real(x))
    model.train()
    model(images).square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("family", GELU_FAMILIES)
def test_gradients_are_the_derivative_of_the_float_function_and_zero_where_codes_saturate(family):
    real, scale = GELU_FAMILIES[family].real, 0.05
    x = (torch.arange(-128, 128).float() * scale).requires_grad_()
    real(x).sum().backward()
    expected = torch.cat((torch.zeros(1), x.grad[1:-1], torch.zeros(1)))
    scales = torch.tensor([scale, 2 * scale], dtype=torch.float64)
    assert torch.equal(real_function(scales, scales, None, None, real=real, bits=8).derivative[0], expected)


def test_every_preset_of_families_composes_to_one_that_is_there():
    for preset in presets("quant"):
        quant = compose_quant(preset)
        assert quant.softmax.family in SOFTMAX_FAMILIES
        assert quant.gelu.family in GELU_FAMILIES
    assert exponent_table(SOFTMAX_FAMILIES["lut"](0.1, 10, 8), 8).shape == (256,)
    assert gelu_table(GELU_FAMILIES["relu"](0.1, 0.1, 8, 8), 8).shape == (256,)
