"""The rooms of the package import downwards only, and what is deployed imports without what trains."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Importing any of them is an error in the script below.
ABSENT = ("torch", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "timm", "torchvision", "wandb")
PROGRAM = """
import importlib, sys
for name in {absent}:
    sys.modules[name] = None
for name in {modules}:
    importlib.import_module(name)
"""
NEEDS = {
    "intvit": (),
    "intvit.program": (),
    "intvit.program.certificate": (),
    "intvit.program.cost": (),
    "intvit.program.schema": (),
    "intvit.runtime": (),
    "intvit.runtime.images": (),
    "intvit.runtime.numpy": (),
    "intvit.runtime.native.runtime": (),
    "intvit.runtime.onnx.runtime": ("onnx", "onnxruntime"),
    "intvit.export.qonnx.custom_operators": ("qonnx",),
}


def test_every_import_contract_of_pyproject_holds() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with intvit[dev]")
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", NEEDS)
def test_programs_and_runtimes_import_without_torch_and_frameworks(module: str) -> None:
    for package in NEEDS[module]:
        pytest.importorskip(package)
    script = PROGRAM.format(absent=ABSENT, modules=[module])
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["intvit.arithmetic", "intvit.runtime.torch"])
def test_the_arithmetic_imports_with_torch_alone(module: str) -> None:
    script = PROGRAM.format(absent=ABSENT[1:], modules=[module])
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_test_imports_another_test() -> None:
    """Helpers of several tests stand in tests/support."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                found += [f"{path.relative_to(ROOT)}: {name}" for name in names if ".test_" in name]
    assert found == []
