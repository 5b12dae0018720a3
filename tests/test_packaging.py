"""What is published: an extra brings what its commands import, a source distribution holds what a build needs."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from intvit import __version__
from intvit.errors import EXTRAS
from intvit.program import save_checkpoint
from tests.support.random_programs import images_for, random_program

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# import name -> name on PyPI, where they differ
DISTRIBUTIONS = {
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "pytorch_lightning": "pytorch-lightning",
}
# what others of the same extra bring
BROUGHT = {"lightning_fabric": "pytorch-lightning", "torchvision": "timm"}
BROUGHT |= {"yaml": "omegaconf", "markupsafe": "jinja2"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~ ]", requirement)[0] for requirement in requirements}


def brought_by(extra: str) -> set[str]:
    """Names of an extra's requirements, with those of the extras that it contains."""
    found = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        if inner := re.match(r"intvit\[(.*)\]", requirement):
            found |= {name for part in inner[1].split(",") for name in brought_by(part)}
        else:
            found |= names([requirement])
    return found


def imported() -> set[str]:
    """Third-party packages that a file of the package imports anywhere."""
    statement = re.compile(r"^ *(?:import|from) (\w+)[\w., ]*(?:import .*)?(?:#.*)?$", re.MULTILINE)
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    found = {name for text in texts for name in statement.findall(text)}
    return {name for name in found if name in EXTRAS or find_spec(name)} - set(sys.stdlib_module_names) - {"intvit"}


def test_inference_needs_three_packages() -> None:
    assert names(PROJECT["dependencies"]) == {"numpy", "pillow", "safetensors"}


def test_what_deploys_a_checkpoint_needs_these_three_alone(tmp_path: Path) -> None:
    save_checkpoint(random_program(1), tmp_path / "integer")
    commands = [
        "run FOLDER OUT/image.npy --runtime numpy",
        "certify FOLDER",
        "golden FOLDER --images OUT/image.npy --out OUT/g",
    ]
    commands += ["export c FOLDER OUT/c", "export hub FOLDER OUT/hub", "export rtl FOLDER OUT/rtl"]
    np.save(tmp_path / "image.npy", images_for(random_program(1), 1))
    script = (
        f"import sys\nfor name in {sorted(EXTRAS)}: sys.modules[name] = None\n"
        "from intvit.commands import main\n"
        f"for command in {commands}:\n"
        f"    given = [part.replace('OUT', {str(tmp_path)!r}) for part in command.split()]\n"
        f"    assert main([part.replace('FOLDER', {str(tmp_path / 'integer')!r}) for part in given]) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_that_is_imported_is_brought_by_the_extra_that_its_absence_names() -> None:
    for package in imported() - {"numpy", "PIL", "safetensors", "markupsafe"}:
        assert package in EXTRAS, f"{package}: name its extra in intvit.errors.EXTRAS"
        distribution = BROUGHT.get(package, DISTRIBUTIONS.get(package, package))
        assert distribution in brought_by(EXTRAS[package]), package
    assert EXTRAS.keys() <= imported() | {"submitit"}  # which Hydra's launcher imports


def test_all_holds_what_commands_need_and_dev_and_docs_hold_all() -> None:
    for extra in ("train", "demo", "onnx", "qonnx", "slurm", "sweep", "analysis", "cuda", "completion"):
        assert brought_by(extra) <= brought_by("all") <= brought_by("dev")
    assert brought_by("all") <= brought_by("docs")


def test_a_source_distribution_holds_what_a_build_needs_and_neither_tests_nor_libraries(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "constraints.txt", "train.py"):
        shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    (source / "tests" / "test_x.py").touch()
    (source / "src" / "intvit" / "runtime" / "native" / "scalar.so").touch()
    script = "import setuptools.build_meta as b; print(b.build_sdist('../dist'))"
    subprocess.run([sys.executable, "-c", script], cwd=source, check=True, capture_output=True)
    (made,) = (tmp_path / "dist").iterdir()
    assert made.name == f"intvit-{__version__}.tar.gz"
    with tarfile.open(made) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
        about = archive.extractfile(f"intvit-{__version__}/PKG-INFO")
        assert about is not None
        text = about.read().decode()
    assert {"conf/train.yaml", "setup.py", "src/intvit/runtime/native/library.cpp", "src/intvit/py.typed"} <= inside
    assert not [name for name in inside if name.startswith("tests") or name.endswith(".so")]
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []  # on PyPI a link of the repository leads nowhere


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.train"])
def test_images_copy_what_is_there(name: str) -> None:
    copied = [
        file
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / name).read_text(), re.MULTILINE)
        for file in line.split()
    ]
    assert len(copied) >= 5
    assert [file for file in copied if not (ROOT / file).exists()] == []
