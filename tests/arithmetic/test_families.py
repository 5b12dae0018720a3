"""Families by name: ours, a user's MODULE:FUNCTION, installed entry points; what is wrong with one is one line."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES, activations, exponent_table, exponentials
from intvit.arithmetic.families import Families
from intvit.errors import IntVitError
from tests.support.families import gelu_of

OWN = """
import torch

def twice(codes, scale, output_scale):
    return codes * 2

def halves(codes, scale, output_scale):
    return codes / 2

def short(codes, scale, output_scale):
    return codes[1:]

def falling(distances, scale, largest):
    return (largest - distances * (largest >> 8)).clamp(min=0)

def faint(distances, scale, largest):
    return torch.ones_like(distances)

def squared(codes, scale, output_scale):
    return codes * codes
squared.real = torch.square

def alone(codes):
    return codes

def divides(codes, scale, output_scale):
    return codes // 0

def unreal(codes, scale, output_scale):
    return codes
unreal.real = "relu"

def random(codes, scale, output_scale):
    return torch.randint_like(codes, 100)

class Nested:
    @staticmethod
    def thrice(codes, scale, output_scale):
        codes *= 3
        return codes

CONSTANT = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, which nothing has put on the import path."""
    (tmp_path / "own_functions.py").write_text(OWN)
    (tmp_path / "broken_functions.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return "own_functions"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> tuple[Families, Families]:
    """Softmax and GELU families as a new process has them; what a test adds is gone after it."""
    for families in (SOFTMAX_FAMILIES, GELU_FAMILIES):
        ours = {name: families[name] for name in families if ":" not in name}
        monkeypatch.setattr(families, "_families", ours)
        monkeypatch.setattr(families, "_points", {})
        monkeypatch.setattr(families, "_complete", False)
    return SOFTMAX_FAMILIES, GELU_FAMILIES


def test_ours_are_one_file_each_and_registered_by_it():
    for families, package in ((SOFTMAX_FAMILIES, exponentials), (GELU_FAMILIES, activations)):
        files = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
        assert files <= set(families)
    assert set(SOFTMAX_FAMILIES) >= {"ivit", "ibert", "ppoly", "lut", "float"}
    assert set(GELU_FAMILIES) >= {"ivit", "ibert", "ppoly", "lut", "float", "silu", "relu", "quick_gelu", "gelu_tanh"}


@pytest.mark.parametrize("family", GELU_FAMILIES)
@pytest.mark.parametrize("scale", [0.003, 0.02, 0.05, 0.1, 1.0])
def test_tables_of_every_float_function_are_its_nearest_integers(family, scale):
    if not GELU_FAMILIES[family].function:
        return  # computed forms have bounds of their own in test_gelu.py
    x = torch.arange(-128, 128)
    real = GELU_FAMILIES[family].real(x.double() * scale)
    scale_out = float(real.abs().max()) / 127
    assert (gelu_of(family, scale, scale_out, 8, 8)(x) - real / scale_out).abs().max() <= 0.5 + 1e-9


def test_a_function_of_ones_own_is_a_family_by_its_name(own_module, fresh):
    softmax, gelu = fresh
    name = f"{own_module}:twice"
    assert name in gelu
    assert name not in list(gelu)  # nobody asked to see it beside ours
    assert gelu[name](0.1, 0.1, 8, 8)(torch.tensor([-128, -1, 0, 5, 127])).tolist() == [-128, -2, 0, 10, 127]
    assert gelu[f"{own_module}:squared"].real is torch.square
    with gelu.listing([name, f"{own_module}:squared"]):
        assert name in gelu.standing_for(torch.nn.functional.gelu)
        assert f"{own_module}:squared" not in gelu.standing_for(torch.nn.functional.gelu)
        assert f"{own_module}:squared" in list(gelu)
    table = exponent_table(softmax[f"{own_module}:falling"](0.1, 197, 8), 8)
    assert table[0] == (2**31 - 1) // 197
    assert (table.diff() < 0).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", r"quant\.gelu\.family=no_such_module:f: no module no_such_module"),
        ("own_functions:cubed", r"no cubed in .*own_functions\.py; it has twice, halves"),
        ("own_functions:CONSTANT", r"own_functions:CONSTANT is 3; expected a function on integers"),
        ("own_functions:unreal", r"its attribute `real` is 'relu', not a function"),
        ("own_functions:alone", r"alone takes \(codes\); expected a function of \(codes, scale, output_scale\)"),
        (":f", "expected MODULE:FUNCTION"),
        ("own_functions:", "expected MODULE:FUNCTION"),
        (".own_functions:twice", "expected MODULE:FUNCTION"),
        (
            "broken_functions:f",
            r"importing broken_functions raised ModuleNotFoundError: .*no_such_package_at_all.*line 1",
        ),
    ],
)
def test_a_function_that_is_not_there_is_an_error_in_one_line(own_module, fresh, name, message):
    with pytest.raises(IntVitError, match=message):
        fresh[1][name]


def test_the_page_says_what_a_function_of_each_kind_takes(own_module, fresh):
    page = (Path(__file__).parents[2] / "docs" / "own-approximation.md").read_text()
    for families, taken in zip(fresh, ("(distances, scale, largest)", "(codes, scale, output_scale)"), strict=True):
        with pytest.raises(IntVitError) as caught:
            families[f"{own_module}:alone"]
        assert str(caught.value).endswith(f"takes (codes); expected a function of {taken}")
        assert taken in page


def test_a_nested_function_may_change_its_argument(own_module, fresh):
    gelu = fresh[1][f"{own_module}:Nested.thrice"]
    assert gelu(0.1, 0.1, 8, 8)(torch.tensor([-3, 5])).tolist() == [-9, 15]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "gelu",
            "halves",
            r"blocks\.3: family own_functions:halves returned torch.float32 \[256\]; expected .* 256 int",
        ),
        (
            "gelu",
            "divides",
            r"own_functions:divides raised \w+: ZeroDivision.*own_functions\.py, line \d+.*FULL_ERROR",
        ),
        ("gelu", "random", r"own_functions:random gives other integers when it is called again"),
        ("gelu", "short", r"returned torch.int64 \[255\]"),
        ("softmax", "faint", r"gives 1\.\.1, 1 at the maximum; expected 0\.\.10900932, and at least 32768"),
    ],
)
def test_what_is_no_integer_function_is_refused_by_site(own_module, fresh, kind, name, message):
    families, scales = (fresh[1], (0.1, 0.1, 8, 8)) if kind == "gelu" else (fresh[0], (0.1, 197, 8))
    with pytest.raises(IntVitError, match=message):
        families[f"{own_module}:{name}"](*scales, site="blocks.3")


def test_installed_packages_register_families_by_entry_points(monkeypatch, fresh, own_module):
    def points(group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint("twice", "own_functions:twice", group)] if group == "intvit.gelu" else []

    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr("intvit.arithmetic.families.entry_points", points)
    softmax, gelu = fresh
    assert "twice" in list(gelu)
    assert "twice" not in list(softmax)
    assert gelu["twice"](0.1, 0.1, 8, 8)(torch.tensor([3])).tolist() == [6]


@pytest.mark.parametrize("value", ["no_such_module:f", "math:pi", "math", "lut"])
def test_an_entry_point_that_is_none_stops_nobody_else(monkeypatch, fresh, value):
    points = [importlib.metadata.EntryPoint(name, value, "intvit.gelu") for name in ("mine", "lut")]
    monkeypatch.setattr("intvit.arithmetic.families.entry_points", lambda group: points)
    assert fresh[1]["lut"](0.1, 0.1, 8, 8).table[128] == 0  # ours, whose name is taken
    for _ in range(2):
        with pytest.raises(IntVitError, match=r"quant\.gelu\.family=mine"):
            fresh[1]["mine"]


def test_many_threads_may_ask_first():
    code = (
        "import sys, threading\n"
        "from intvit.arithmetic import GELU_FAMILIES\n"
        "sys.setswitchinterval(1e-6)\n"
        "found = []\n"
        "threads = [threading.Thread(target=lambda: found.append(GELU_FAMILIES['lut'])) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert len(found) == 8\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_digest_tells_functions_apart_and_not_their_texts(own_module, fresh):
    gelu = fresh[1]
    assert gelu[f"{own_module}:twice"].digest() == gelu[f"{own_module}:twice"].digest()
    assert gelu[f"{own_module}:twice"].digest() != gelu[f"{own_module}:Nested.thrice"].digest()
    assert gelu[f"{own_module}:twice"].foreign
    assert not gelu["silu"].foreign


def test_a_family_that_is_not_there_is_none(fresh):
    def names(families: Families) -> list[str]:
        return [name for name in ("nothing", "", 3) if name in families]

    assert names(fresh[0]) == names(fresh[1]) == []
    with pytest.raises(KeyError):
        fresh[0]["nothing"]


def test_functions_of_distances_see_every_distance_once(fresh):
    seen: list[Tensor] = []

    @fresh[0].register_function("spy")
    def spy(distances: Tensor, scale: float, largest: int) -> Tensor:
        seen.append(distances)
        return distances * 0 + largest

    fresh[0]["spy"](0.5, 4, 6)
    assert seen[0].tolist() == list(range(64))
