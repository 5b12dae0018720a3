"""What a newcomer reads and what the host runs: links lead somewhere, files parse, commands exist."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def parsed(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md"])
def test_links_lead_to_what_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []
    headings = re.findall(r"^#+ (.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert {link.partition("#")[2] for link in links if link.startswith("README.md#")} <= anchors


def test_what_contributing_tells_to_run_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    modules = re.findall(r"python -m (tests\.[\w.]+)", text)
    assert len(modules) >= 3
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    folders = re.findall(r"pytest (?:-\S+ )*(tests/\w+)", text)
    assert len(folders) >= 3
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


def test_the_citation_names_this_version_licence_and_repository() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    needed = {"cff-version", "message", "title", "authors", "version", "license", "repository-code", "type"}
    assert needed <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PYPROJECT["project"]["license"]
    from intvit import __version__

    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["repository-code"] == "https://github.com/intvit/intvit"
    assert citation["authors"] == [{"name": "IntViT developers"}]
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= reference.keys()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    workflow = parsed(path)
    assert workflow[True].keys() >= {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    makefile = (ROOT / "Makefile").read_text()
    for name, job in workflow["jobs"].items():
        assert all("run" in step or "@" in step["uses"] for step in job["steps"]), name
        for command in (step["run"] for step in job["steps"] if "run" in step):
            program, *arguments = command.split()
            if program == "make":
                assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments), command
            else:
                assert (ROOT / program).stat().st_mode & 0o100, command


def test_workflows_cover_linux_on_x86_and_arm_and_macos() -> None:
    matrix = parsed(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    systems = {entry["system"] for entry in matrix}
    assert any(system.startswith("ubuntu") and not system.endswith("-arm") for system in systems)
    assert any(system.startswith("ubuntu") and system.endswith("-arm") for system in systems)
    assert any(system.startswith("macos") for system in systems)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_issue_templates_parse(path: Path) -> None:
    template = parsed(path)
    if path.name != "config.yml":
        assert {"name", "description", "body"} <= template.keys()
        ids = [field["id"] for field in template["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 1


def test_a_commit_is_formatted_with_the_linter_of_make_lint() -> None:
    repositories = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    (ruff,) = (entry for entry in repositories if entry["repo"].endswith("/ruff-pre-commit"))
    pinned = re.search(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert ruff["rev"] == f"v{pinned[1]}"
