"""The documentation site: links lead somewhere, nothing public is undocumented, pages read on a screen and a phone."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import pytest
import yaml

from tests.support.browser import Browser

ROOT = Path(__file__).parents[1]
SOURCES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
]
PAGES = ["index.html", "equal-integers.html", "reference/library.html", "reference/configuration.html"]

# Files of conf/ that hold every key of their group; the presets beside them change some.
SHARED = [
    *(
        "train",
        "evaluate",
        "callbacks/default",
        "data/base",
        "data/train_transform/photo",
        "model/base",
        "optimizer/base",
    ),
    *(
        "quant/base",
        "quant/bits/r16",
        "quant/calibration/mse",
        "quant/observer/default",
        "schedule/base",
        "trainer/auto",
    ),
]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """docs/site_pages.py, which mkdocs loads by its path, too."""
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_links_between_pages_and_to_headings_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        place, _, heading = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if heading and target.suffix == ".md":
            assert heading in anchors(target), link


def test_a_page_without_a_place_in_the_navigation_comes_at_the_end_of_the_guides(pages: ModuleType) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    config = SimpleNamespace(nav=[*nav[:1], {"Guides": ["data.md"]}, *nav[2:]])
    made = pages.on_config(config).nav
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= pages.listed(made)
    assert "weights.md" in made[1]["Guides"]
    assert "weights.md" not in pages.on_config(SimpleNamespace(nav=nav)).nav[1]["Guides"]


def test_links_on_the_site_go_to_pages_or_to_github(pages: ModuleType) -> None:
    text = "[a](docs/data.md#x) [b](CONTRIBUTING.md) [c](examples) [d](https://e.org) ![p](docs/presets.svg) [f](#g)"
    made = pages.site_links(text, "index.md")
    examples = "[c](https://github.com/intvit/intvit/blob/main/examples)"
    assert made == f"[a](data.md#x) [b](contributing.md) {examples} [d](https://e.org) ![p](presets.svg) [f](#g)"
    assert pages.site_links("[a](../SECURITY.md#r)", "publish.md") == "[a](security.md#r)"


def test_no_public_name_of_the_library_page_is_undocumented(pages: ModuleType) -> None:
    import intvit

    places = {
        **intvit._PLACES,
        "export": ("intvit.export.record", "export"),
        "models": ("intvit.models.build", "models"),
    }
    shown = [places[name] for name in intvit.__all__]
    shown += [(module, name) for module in pages.MODULES for name in pages.public_names(module)]
    undocumented, count = [], 0
    for module, name in shown:
        documented = getattr(importlib.import_module(module), name)
        members = [documented]
        if isinstance(documented, type):
            own = {name: member for name, member in vars(documented).items() if not name.startswith("_")}
            members += [
                m
                for m in own.values()
                if isinstance(m, property) or (isinstance(m, FunctionType) and m.__name__ != "<lambda>")
            ]
        count += len(members)
        undocumented += [f"{module}.{name}: {member}" for member in members if not (member.__doc__ or "").strip()]
    assert undocumented == []
    assert count >= 50


def test_every_command_and_every_config_file_and_key_is_in_the_reference(pages: ModuleType) -> None:
    text = pages.configuration()
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert f"### {file.relative_to(ROOT / 'conf').with_suffix('').as_posix()}\n" in text
    for key in ("quant.overrides", "trainer.max_time"):
        file, name = key.split(".")
        assert any(row.startswith(f"| `{name}` |") for row in text.splitlines()), file
    for name in SHARED:
        rows = pages.config_keys((ROOT / "conf" / f"{name}.yaml").read_text())
        own = ((key, reason) for key, _, reason in rows if not key.startswith(("defaults", "hydra.")))
        assert [key for key, reason in own if not reason] == [], f"conf/{name}.yaml: a comment says what a key is for"
    example = "a: # group\n  b: 1 # why\n# before\nc: [x]\n"
    keys = {key: (value, reason) for key, value, reason in pages.config_keys(example)}
    assert keys == {"a": ("", "group"), "a.b": ("1", "why"), "c": ("[x]", "before")}


def test_keys_are_those_that_yaml_reads(pages: ModuleType) -> None:
    """Of files without flow mappings and lists of mappings: nothing is left out or made up."""

    def leaves(values: dict, before: str = "") -> Iterator[str]:
        for key, value in values.items():
            yield from leaves(value, f"{before}{key}.") if isinstance(value, dict) and value else [f"{before}{key}"]

    for name in (
        "schedule/base",
        "trainer/auto",
        "data/base",
        "model/base",
        "quant/bits/r16",
        "quant/observer/default",
    ):
        text = (ROOT / "conf" / f"{name}.yaml").read_text()
        found = {key for key, value, _ in pages.config_keys(text) if value and not key.startswith("defaults")}
        assert found == {key for key in leaves(yaml.safe_load(text)) if not key.startswith("defaults")}, name


def test_the_theme_fetches_nothing() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "repo_url:" not in text.replace("no repo_url:", "")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material comes with intvit[docs]")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings comes with intvit[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_pages_render_on_a_screen_and_a_phone_without_network(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path / "profile")
    try:
        for page in PAGES:
            for width, height in ((1280, 900), (390, 844)):
                browser.open(site / page, width, height)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, page
                assert browser.evaluate("document.querySelector('h1').innerText.length") > 3
                assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), page
                asked = "performance.getEntriesByType('resource').map(r => r.name).filter(n => /^http/.test(n))"
                assert browser.evaluate(asked) == [], page
        browser.open(site / "reference" / "library.html", 1280, 900)
        browser.evaluate("document.querySelector('.md-search__input').focus()")
        script = (
            "(i => { i.value = 'accumulator'; i.dispatchEvent(new Event('keyup', {bubbles: true})) })"
            "(document.querySelector('.md-search__input'))"
        )
        deadline = time.monotonic() + 60
        found = 0
        while not found and time.monotonic() < deadline:
            browser.evaluate(script)
            time.sleep(0.5)
            found = browser.evaluate("document.querySelectorAll('.md-search-result__item').length")
        assert found > 0
        assert browser.failures == []
    finally:
        browser.close()
