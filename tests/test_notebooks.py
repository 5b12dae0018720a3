"""The notebooks of examples/: Python that runs in an empty folder on the embedded digits, with light outputs."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_three() -> None:
    names = [notebook.stem for notebook in NOTEBOOKS]
    assert names == ["compare_approximations", "first_integer_model", "from_run_to_c"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_committed_with_outputs_that_are_text_and_no_trace_of_a_machine(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 40_000
    document = json.loads(text)
    outputs = [output for cell in document["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert {output["output_type"] for output in outputs} == {"stream"}
    assert {output["name"] for output in outputs} == {"stdout"}
    assert "/home" not in text
    assert "/root" not in text
    assert "/tmp" not in text
    for cell, source in enumerate(code(notebook)):
        compile(source, f"{notebook.name}, cell {cell}", "exec")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_links_of_a_notebook_lead_somewhere(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [part.partition(")")[0] for part in prose.split("](")[1:]]
    assert links
    assert [link for link in links if not (notebook.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_cache: Path) -> None:
    """Its own assertions are what it promises."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTVIT_CACHE", str(digits_cache))
    names: dict[str, object] = {"__name__": "__main__"}
    for cell, source in enumerate(code(notebook)):
        exec(compile(source, f"{notebook.name}, cell {cell}", "exec"), names)
