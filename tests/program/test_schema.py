"""docs/program.schema.json: made from the table of operators, true of every program, and false of damaged ones."""

import json
from pathlib import Path

import jsonschema
import pytest

from intvit.program import save_checkpoint
from intvit.program.operators import OPERATORS
from intvit.program.schema import schema
from tests.support.format_page import EXAMPLE
from tests.support.random_programs import random_program

PUBLISHED = json.loads((Path(__file__).parents[2] / "docs" / "program.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(PUBLISHED)


def document(seed: int, folder: Path) -> dict:
    save_checkpoint(random_program(seed), folder)
    return json.loads((folder / "program.json").read_text(encoding="utf-8"))


def test_the_published_schema_is_the_one_of_the_table() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    assert schema() == PUBLISHED
    listed = {entry["properties"]["op"]["const"] for entry in PUBLISHED["properties"]["operators"]["items"]["oneOf"]}
    assert listed == set(OPERATORS)


@pytest.mark.parametrize("seed", range(0, 36, 2))
def test_every_program_is_valid(seed: int, tmp_path: Path) -> None:
    VALIDATOR.validate(document(seed, tmp_path / "checkpoint"))


def test_the_example_of_the_format_page_is_valid() -> None:
    VALIDATOR.validate(json.loads(EXAMPLE))


def test_what_the_loader_refuses_for_its_form_is_invalid(tmp_path: Path) -> None:
    for change in (
        lambda d: d.pop("output"),
        lambda d: d.update(version=2),
        lambda d: d.update(extra=1),
        lambda d: d["weights"].update(extra=1),
        lambda d: next(iter(d["values"].values())).pop("scale"),
        lambda d: d["input"].update(shape=[1, 2]),
        lambda d: d["operators"][0]["attributes"].update(bits=1),
        lambda d: d["operators"][0]["attributes"].pop("shift"),
        lambda d: d["operators"][0]["attributes"].update(unknown=1),
        lambda d: d["operators"][0]["constants"].pop("bias"),
        lambda d: d["operators"][0].update(op="quantise"),
        lambda d: next(iter(d["values"].values())).update(scale="1"),
        lambda d: next(iter(d["constants"].values())).update(bits=0),
        lambda d: next(iter(d["constants"].values())).update(shape=[-1]),
    ):
        damaged = document(4, tmp_path / "checkpoint")
        change(damaged)
        assert not VALIDATOR.is_valid(damaged)
