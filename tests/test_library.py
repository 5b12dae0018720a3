"""The library's face: a light import, verbs in any order of imports, types, the examples of README and docstrings."""

import doctest
import importlib
import inspect
import os
import pydoc
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

import intvit
from intvit.errors import IntVitError
from intvit.models import MODELS
from intvit.program import load_checkpoint
from intvit.runtime import RUNTIMES, load_runtime
from intvit.torchvision_fix import ensure_torchvision
from tests.support.quick import slow_but
from tests.support.registry_models import reduced
from tests.support.tiny_runs import TINY, composed

ensure_torchvision()
import timm  # noqa: E402

ROOT = Path(__file__).parents[1]
VERBS = [name for name in intvit.__all__ if name[0].islower()]


@pytest.fixture(autouse=True)
def _all_digits(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`intvit.digits` gives all of them, not the few of tiny runs."""
    monkeypatch.setenv("INTVIT_CACHE", str(digits_cache))


def run_python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def calibrated() -> Any:
    torch.manual_seed(0)
    model = intvit.create_model("deit_t", image_size=8, patch_size=4, num_classes=10, depth=1)
    return intvit.calibrate(model, intvit.digits("train")[0][:32])


@pytest.fixture(scope="module")
def folder(calibrated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library") / "integer"
    intvit.export(calibrated, place, classes=["zero", "one", "two", "three", "four", *"56789"])
    return place


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); import intvit\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "assert not new & {'torch', 'numpy', 'hydra', 'omegaconf', 'timm', 'rich', 'PIL', 'safetensors'}, new\n"
        "assert {m for m in sys.modules if m.startswith('intvit')} == {'intvit'}\n"
        "dir(intvit); intvit.IntVitError\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr


def test_running_and_certifying_a_checkpoint_needs_neither_torch_nor_hydra(folder: Path) -> None:
    script = (
        "import sys\nfor name in ('torch', 'hydra', 'timm', 'pytorch_lightning'): sys.modules[name] = None\n"
        "import intvit, numpy\n"
        f"assert intvit.certify({str(folder)!r}, 32).enough\n"
        "images = numpy.zeros((1, 3, 8, 8), 'uint8')\n"
        f"assert intvit.load({str(folder)!r}, 'numpy')(images).shape == (1, 10)\n"
        f"assert len(next(intvit.run({str(folder)!r}, images, runtime='numpy')).best) == 5\n"
        f"intvit.golden({str(folder)!r}, images, {str(folder.parent / 'golden')!r}, values=['head'])"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there_listed_and_documented(verb: str) -> None:
    function = getattr(intvit, verb)
    assert callable(function)
    assert verb in dir(intvit)
    assert inspect.signature(function)
    assert len(inspect.getdoc(documented(verb)) or "") > 100 or verb == "models"


def documented(verb: str) -> Any:
    """The function behind a verb."""
    value = getattr(intvit, verb)
    return value if inspect.isfunction(value) else value._function()


def test_an_unknown_name_is_an_attribute_error_that_names_the_verbs() -> None:
    with pytest.raises(AttributeError, match=r"'intvit' has no attribute 'quantise'; it has .*quantize"):
        intvit.quantise  # type: ignore[attr-defined]  # noqa: B018


ORDERS = [
    "import intvit; intvit.{0}; import intvit.{0}; from intvit.{0} import {1}",
    "import intvit.{0}; import intvit; from intvit.{0} import {1}",
    "from intvit.{0} import {1}; from intvit import {0}; import intvit",
    "from intvit.{0}.{2} import {1}; import intvit",
    "from intvit import *; import intvit.{0}.{2}; import intvit",
]


@pytest.mark.parametrize("order", slow_but((ORDERS[0], ORDERS[3]), ORDERS))
@pytest.mark.parametrize("package", ["export", pytest.param("models", marks=pytest.mark.slow)])  # verbs, too
def test_a_verb_and_a_package_of_one_name_are_both_in_any_order_of_imports(package: str, order: str) -> None:
    inside = {"export": ("record", "record"), "models": ("MODELS", "registry")}[package]
    call = {"export": "intvit.export(torch.nn.Identity())", "models": "assert 'deit_t' in intvit.models()"}[package]
    script = (
        f"{order.format(package, *inside)}\n"
        f"import torch\nassert intvit.{package}.__name__ == 'intvit.{package}'\n"
        f"try: {call}\nexcept intvit.IntVitError as error: assert 'Identity is not a model of intvit' in str(error)"
    )
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr


TYPED = """
import intvit
import intvit.models
import numpy as np
from intvit.export.record import record
from intvit.models import MODELS

model = intvit.calibrate(intvit.create_model("deit_t", depth=1), np.zeros((1, 3, 224, 224), np.uint8))
program: intvit.Program = intvit.export(model, "folder", classes=["a"])
names: list[str] = intvit.models() + intvit.presets() + list(MODELS)
config: intvit.QuantConfig = intvit.compose("ivit8", ["quant/gelu=lut"])
enough: bool = intvit.certify(program, accumulator=24).enough
scores: np.ndarray = intvit.load("folder")(np.zeros((1, 3, 224, 224), np.uint8))
reveal_type(record(model))
"""
WRONG = """
import intvit

intvit.export(3)
intvit.quantise
names: list[int] = intvit.models()
"""


def test_types_of_the_verbs_are_seen_and_mistakes_found(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy comes with intvit[dev]")
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = ["-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]  # with the cache of `make lint`
    environment = {"MYPYPATH": str(ROOT / "src")}
    done = run_python(*command, str(tmp_path / "typed.py"), str(tmp_path / "wrong.py"), **environment)
    lines = [line for line in done.stdout.splitlines() if ": error:" in line and "src/intvit" not in line]
    assert [re.sub(r".*(wrong|typed)\.py:(\d+): .*", r"\1 \2", line) for line in lines] == [
        "wrong 4",
        "wrong 5",
        "wrong 6",
    ]
    assert "typed.py:14: note: Revealed type is" in done.stdout
    assert "Program" in done.stdout


def test_the_example_of_the_readme_runs_in_an_empty_folder(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    example = next(block for block in blocks if block.startswith("import intvit"))
    assert len(example.splitlines()) <= 12
    done = run_python("-c", example, cwd=tmp_path, PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "integer").iterdir()} == {
        "README.md",
        "bounds.json",
        "program.json",
        "weights.safetensors",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_every_docstring_runs(verb: str, calibrated: Any, folder: Path, tmp_path: Path) -> None:
    function = documented(verb)
    images, labels = intvit.digits()
    module = importlib.import_module(function.__module__)
    images32 = np.zeros((2, 3, 32, 32), np.uint8)
    names = {**vars(module), "intvit": intvit, "numpy": np, "torch": torch, "timm": timm, "folder": folder}
    names |= {"images": images[:8], "labels": labels[:8], "images32": images32, "model": calibrated}
    names |= {"out": tmp_path / "out", function.__name__: function}
    tests = doctest.DocTestFinder(recurse=False).find(function, verb, module, names)
    assert tests
    assert all(test.examples for test in tests)
    for test in tests:
        shown: list[str] = []
        assert doctest.DocTestRunner().run(test, out=shown.append).failed == 0, "".join(shown)


def test_calibration_takes_numpy_torch_batches_and_loaders_alike() -> None:
    images, labels = (array[:20] for array in intvit.digits("train"))
    given = torch.from_numpy(images)
    batches = list(given.split(8))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(given, torch.from_numpy(labels)), batch_size=8)
    states = []
    for source in (images, given, batches, [batch.numpy() for batch in batches], loader):
        torch.manual_seed(0)
        model = intvit.create_model("deit_t", image_size=8, patch_size=4, num_classes=10, depth=1)
        assert intvit.calibrate(model, source, batch_size=8) is model
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in state)


def test_calibration_and_export_refuse_what_is_not_a_model_of_ours(calibrated: Any) -> None:
    with pytest.raises(IntVitError, match=r"Linear is not a model of intvit; intvit\.quantize"):
        intvit.calibrate(torch.nn.Linear(1, 1), np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(IntVitError, match="Linear is not a model of intvit"):
        intvit.export(torch.nn.Linear(1, 1))
    with pytest.raises(IntVitError, match="2 names of classes for 10 scores"):
        intvit.export(calibrated, classes=["a", "b"])
    with pytest.raises(IntVitError, match=r"images are torch.float32 .* the model takes torch.uint8"):
        intvit.calibrate(intvit.create_model("deit_t", image_size=32, depth=1), np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("name", intvit.models())
def test_a_quantized_timm_model_has_its_weights_and_its_float_logits(name: str) -> None:
    torch.manual_seed(0)
    size, _, small = reduced(name)
    source = timm.create_model(timm_name(name), img_size=size, num_classes=7, **small).eval()
    model = intvit.quantize(source, "lut8")
    state = model.state_dict()
    parameters = dict(source.named_parameters())
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(torch.equal(state[key], value) for key, value in parameters.items())
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    mean, std = (torch.tensor(source.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = source((images / 255 - mean) / std)
        assert torch.allclose(model(images), expected, atol=1e-4)
    program = intvit.export(intvit.calibrate(model, images))
    assert program.provenance["timm"] == f"{source.pretrained_cfg['architecture']}.{source.pretrained_cfg['tag']}"
    assert program.provenance["config"]["data"]["crop_pct"] == source.pretrained_cfg["crop_pct"]


def timm_name(name: str) -> str:
    return MODELS[name].timm


VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
TAKEN = [
    (VIT, {"init_values": 0.1}),
    (VIT, {"qkv_bias": False, "proj_bias": False}),
    (VIT, {"reg_tokens": 4, "no_embed_class": True}),
    (VIT, {"global_pool": "avg", "class_token": False, "mlp_ratio": 2.5}),
    (VIT, {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True}),
    (VIT, {"pre_norm": True, "act_layer": "silu"}),
    (VIT, {"num_classes": 0, "norm_layer": partial(torch.nn.LayerNorm, eps=1e-5)}),
    (VIT, {"dynamic_img_size": True, "scale_attn_norm": True, "scale_mlp_norm": True}),
    (VIT, {"global_pool": "map", "class_token": False, "act_layer": "quick_gelu"}),
    (SWIN, {"num_classes": 0, "mlp_ratio": 2.5}),
]


@pytest.mark.parametrize(("name", "options"), TAKEN)
def test_what_timm_can_build_otherwise_is_taken_over(name: str, options: dict[str, Any]) -> None:
    small = {"depths": (1, 1), "num_heads": (3, 6)} if name == SWIN else {"depth": 1}
    torch.manual_seed(0)
    source = timm.create_model(name, img_size=32, **small, **options).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        expected = source(images / 255.0 * 2 - 1)
        model = intvit.quantize(source, "lut8", mean=(0.5,) * 3, std=(0.5,) * 3)
        assert (model(images) - expected).abs().max() <= 1e-4


REFUSED = [
    (VIT, {"qk_norm": True}, "norms of queries and keys"),
    (VIT, {"global_pool": "max"}, "global_pool='max'"),
    (VIT, {"pos_embed": "none"}, "no position embedding"),
    (VIT, {"act_layer": "mish"}, "the activation Mish"),
    (VIT, {"scale_attn_norm": True}, "a norm inside attention or the MLP alone"),
    (VIT, {"final_norm": False}, "a classifier of a class token without a norm"),
    (VIT, {"global_pool": "map", "fc_norm": True}, "attention pooling of tokens without a norm"),
    (VIT, {"img_size": (16, 32), "patch_size": (16, 8)}, "patches that are not square"),
    (
        "deit_tiny_distilled_patch16_224",
        {"num_classes": 0},
        "distillation with registers, without a class token's norm or without a classifier",
    ),
    ("swinv2_tiny_window8_256", {}, "SwinTransformerV2 is none of the architectures"),
    ("resnet18", {}, "ResNet is none of the architectures"),
]


@pytest.mark.parametrize(
    ("name", "options", "feature"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_ours_do_not_compute_is_refused_by_name(name: str, options: dict[str, Any], feature: str) -> None:
    small = {} if name == "resnet18" else {"depths": (1, 1), "num_heads": (3, 6)} if "swin" in name else {"depth": 1}
    with pytest.raises(IntVitError, match=re.escape(feature)):
        intvit.quantize(timm.create_model(name, **small, **options))


def test_a_model_of_one_channel_needs_its_mean_and_std() -> None:
    source = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, in_chans=1)
    with pytest.raises(IntVitError, match="for 1 channels; say mean= and std="):
        intvit.quantize(source)
    model = intvit.quantize(source, mean=(0.5,), std=(0.5,))
    assert model(torch.zeros(1, 1, 32, 32, dtype=torch.uint8)).shape == (1, 1000)


def test_figures_of_a_model_a_program_and_a_folder_agree(calibrated: Any, folder: Path) -> None:
    images, labels = (array[:40] for array in intvit.digits())
    of_model = intvit.evaluate(calibrated, images, labels)
    assert of_model["images"] == 40
    assert of_model["qat"] == {key: of_model["runtimes"]["numpy"][key] for key in ("top1", "top5")}
    for source in (load_checkpoint(folder), folder):
        pairs = [(images[:25], labels[:25]), (torch.from_numpy(images[25:]), torch.from_numpy(labels[25:]))]
        figures = intvit.evaluate(source, pairs)
        assert "qat" not in figures
        for name in ("torch", "numpy"):
            assert figures["runtimes"][name]["mismatches"] == 0
            assert figures["runtimes"][name]["top1"] == of_model["qat"]["top1"]
    with pytest.raises(IntVitError, match="40 images with 3 labels"):
        intvit.evaluate(folder, images, labels[:3])
    with pytest.raises(IntVitError, match="labels beside a loader"):
        intvit.evaluate(folder, [(images, labels)], labels)


class OffByOne:
    """A runtime whose first score is wrong for every other image."""

    def __init__(self, program: Any) -> None:
        self.exact = load_runtime(program, "numpy")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        scores = self.exact(images)
        scores[::2, 0] += 1
        return scores


def test_a_mismatch_is_counted(calibrated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "wrong", f"{__name__}:OffByOne")
    images, labels = (array[:9] for array in intvit.digits())
    figures = intvit.evaluate(calibrated, images, labels, runtimes=["numpy", "wrong"])
    assert {name: runtime["mismatches"] for name, runtime in figures["runtimes"].items()} == {"numpy": 0, "wrong": 5}


def test_training_in_process_is_the_run_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from intvit.config.identity import identity_hash
    from intvit.config.presets import compose_run

    overrides = [*TINY, "model=deit_t", "quant=lut8"]
    values, place = compose_run(overrides)
    assert str(place) == f"outputs/deit_t-lut8-digits-demo-{identity_hash(composed(*overrides))}"
    assert values == composed(*overrides)
    monkeypatch.chdir(tmp_path)
    quick = ["schedule.float.epochs=1", "schedule.qat=null", "schedule.frozen=null"]
    summary = intvit.train(*overrides, *quick, folder="run")
    assert summary["name"] == "run"
    assert summary["integer"]["top1"] > 0
    assert (tmp_path / "run" / "summary.json").is_file()
    assert intvit.train(*overrides, *quick, folder="run") == summary


def test_what_cannot_be_composed_is_one_line() -> None:
    for given, message in [
        (("nonsense",), "no preset quant=nonsense; quant has .*lut8"),
        (("lut8", ["quant/gelu=nonsense"]), "no preset quant/gelu=nonsense; quant/gelu has .*ivit"),
        (("lut8", ["quant.nonsense=1"]), "quant.nonsense: no such key"),
        (("lut8", ["quant.bits.weight=9"]), "weight=9"),
    ]:
        with pytest.raises(IntVitError, match=message) as caught:
            intvit.compose(*given)
        assert "\n" not in str(caught.value)
    with pytest.raises(IntVitError, match="no preset model=nonsense"):
        intvit.train("model=nonsense")
    with pytest.raises(IntVitError, match="quant=fp32 is float"):
        intvit.create_model("deit_t", quant="fp32")


def test_presets_compose_inside_another_application_of_hydra_and_in_threads(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 3")
    expected = intvit.compose("ivit8")
    with initialize_config_dir(str(tmp_path), version_base=None):
        assert intvit.compose("ivit8") == expected
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(intvit.compose, ["ivit8"] * 8)) == [expected] * 8
        with pytest.raises(IntVitError, match="no preset quant=nonsense"):
            intvit.compose("nonsense")
        assert compose("config") == {"mine": 3}


def test_presets_name_their_group() -> None:
    assert "lut8" in intvit.presets()
    assert set(intvit.models()) == set(intvit.presets("model")) - {"timm"}  # which takes timm's names
    with pytest.raises(IntVitError, match=r"no presets of nonsense; there are .*quant/gelu"):
        intvit.presets("nonsense")


@pytest.mark.parametrize(("package", "shown"), [("export", "classes: names of the classes"), ("models", '"deit_t" in')])
def test_help_of_a_verb_that_is_a_package_shows_its_arguments_and_example(package: str, shown: str) -> None:
    text = pydoc.render_doc(getattr(intvit, package), renderer=pydoc.plaintext)
    assert f"{package}(" in text
    assert shown in text
    assert ">>> " in text
