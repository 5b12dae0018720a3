"""A report in a real browser: works offline, tables sort, fits a phone; its files; the same in Weights & Biases."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from intvit.reports.report import Column, Plot, Report, Table
from intvit.reports.style import plot
from intvit.training.config import WandbConfig
from tests.support.browser import Browser

ROWS = [
    {"layer": "blocks.10", "error": 2.0, "note": "<b>&</b>", "override": {"blocks.10": {"bits": {"weight": 4}}}},
    {"layer": "blocks.9", "error": None, "note": "none", "override": {}},
    {"layer": "blocks.1", "error": 1e-7, "note": "tiny", "override": {}},
    {"layer": "blocks.2", "error": float("inf"), "note": "exact", "override": {}},
    {"layer": "blocks.3", "error": -10.5, "note": "negative", "override": {}},
]
COLUMNS = (
    Column("layer", "layer"),
    Column("error", "error", ".3g", "what is lost"),
    Column("note", "note"),
    Column("override", "override", page=False),
)


@pytest.fixture
def report() -> Report:
    with plot(height=2.0) as (figure, axes):
        axes.plot([1, 2, 3], [1, 4, 9])
    parts = [
        Plot("curve", "A curve", figure, table="layers"),
        Table("layers", "Layers", COLUMNS, ROWS, plot="curve"),
        Table(
            "wide",
            "Wide",
            [Column(f"c{i}", f"a long heading {i}", ".3f") for i in range(30)],
            [{f"c{i}": float(i) for i in range(30)}],
        ),
    ]
    return Report("A report", "intvit analyze model x <y>", ["One finding."], {"top-1": "80 %"}, parts)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def shown(browser: Browser, column: int) -> list[str]:
    """Texts of a column of the table `layers`, from top to bottom."""
    return browser.evaluate(
        f"[...document.querySelectorAll('#layers tbody tr')].map(row => row.cells[{column}].textContent)"
    )


def test_tables_sort_in_a_browser_without_network(report: Report, browser: Browser, tmp_path: Path) -> None:
    browser.open(report.write(tmp_path / "out"), 1000, 800)
    assert shown(browser, 0) == ["blocks.10", "blocks.9", "blocks.1", "blocks.2", "blocks.3"]
    error, layer = "#layers th:nth-child(2) button", "#layers th:nth-child(1) button"
    browser.tap(error)
    assert shown(browser, 1) == ["inf", "2", "1e-07", "-10.5", "–"]  # largest first, empty last
    browser.tap(error)
    assert shown(browser, 1) == ["-10.5", "1e-07", "2", "inf", "–"]
    assert browser.evaluate("document.querySelector('#layers th:nth-child(2)').ariaSort") == "ascending"
    browser.tap(layer)
    assert shown(browser, 0) == ["blocks.1", "blocks.2", "blocks.3", "blocks.9", "blocks.10"]  # by number, not by digit
    assert browser.evaluate("document.querySelector('#layers th:nth-child(2)').ariaSort") is None
    assert "<b>&</b>" in shown(browser, 2)  # text, not markup
    assert browser.evaluate("document.querySelector('#curve img').naturalWidth") > 500
    loaded = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert browser.failures == []
    picture = Image.open(io.BytesIO(browser.screenshot()))
    assert picture.size == (1000, 800)
    assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20  # text and lines, not an empty page


def test_the_page_fits_a_phone(report: Report, browser: Browser, tmp_path: Path) -> None:
    browser.open(report.write(tmp_path / "out"), 390, 844)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390  # wide tables scroll inside their frames
    assert browser.evaluate("document.querySelector('#wide .scroll').scrollWidth") > 390
    assert 300 < browser.evaluate("document.querySelector('#curve img').getBoundingClientRect().right") <= 390
    assert browser.evaluate("parseFloat(getComputedStyle(document.querySelector('#layers td')).fontSize)") >= 13
    links = browser.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href'))")
    assert "#curve" in links
    assert all(browser.evaluate(f"document.querySelector({link!r}) !== null") for link in links)


def test_files_beside_the_page_hold_every_value(report: Report, tmp_path: Path) -> None:
    page = report.write(tmp_path / "out")
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "layers.csv", "wide.csv", "curve.png"}
    rows = list(csv.DictReader((page.parent / "layers.csv").open()))
    assert [row["error"] for row in rows] == ["2.0", "", "1e-07", "inf", "-10.5"]
    assert rows[0]["override"] == '{"blocks.10": {"bits": {"weight": 4}}}'
    assert "quant.overrides" not in page.read_text()
    assert Image.open(page.parent / "curve.png").size[0] > 500
    assert report.parts[0].png == (page.parent / "curve.png").read_bytes()


@pytest.mark.usefixtures("own_wandb")
def test_wandb_gets_the_same_tables_and_plots(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path)
    report.log_wandb(WandbConfig(project="test", entity=None, offline=True), tmp_path)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    media = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    for name in ("table/layers", "table/wide", "images/curve"):
        assert any(f"media/{name}_" in path for path in media), (name, media)
