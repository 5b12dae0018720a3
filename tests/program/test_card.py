"""The model card: true of the program, readable by the Hub, written anew with every export, whatever a file says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from intvit.program import bounds, load_checkpoint, save_checkpoint
from intvit.program.card import model_card
from tests.support.programs import dense_program
from tests.support.random_programs import random_program

CONFIG = {"model": {"name": "deit_t"}, "quant": {"name": "ivit8"}, "data": {"name": "digits"}}
MEASURED = {"float": {"top1": 97.5}, "integer": {"top1": 96.25, "top5": 100.0}}


def front_matter(card: str) -> dict[str, Any]:
    """Everything between the first two lines of dashes."""
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("\n---\n")[0][4:])


def card_with(provenance: dict[str, Any], **options: Any) -> str:
    program = random_program(4)
    program.provenance = provenance
    return model_card(program, bounds(program), **options)


def test_a_card_says_what_was_measured_and_proven() -> None:
    program = random_program(4)
    card = card_with({"config": CONFIG, "measured": MEASURED})
    assert "# deit_t, ivit8" in card
    assert "| integer | 96.25 | 100.00 |" in card
    assert "| float | 97.50 |  |" in card
    bits = max(entry.accumulator.bits for entry in bounds(program).values() if entry.accumulator)
    assert f"accumulators of {bits} bits" in card
    said = front_matter(card)
    assert said["library_name"] == "intvit"
    assert "ivit8" in said["tags"]
    (result,) = said["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits"}
    assert [metric["value"] for metric in result["metrics"]] == [96.25, 100.0]
    assert all({"type", "value"} <= metric.keys() for metric in result["metrics"])
    assert "license" not in said


def test_an_evaluation_replaces_what_training_measured_and_names_its_own_data() -> None:
    runtimes = {"numpy": {"top1": 90.0, "top5": 99.0, "mismatches": 0, "images_per_second": 3.5}}
    evaluation = {"data": "imagenette", "images": 45, "float": {"top1": 91.0, "top5": 99.0}, "runtimes": runtimes}
    card = card_with({"config": CONFIG, "measured": MEASURED}, evaluation=evaluation, license="apache-2.0")
    assert "96.25" not in card
    assert "On 45 images of `imagenette`. Images whose integers differ from the model's: numpy 0." in card
    said = front_matter(card)
    assert said["license"] == "apache-2.0"
    assert said["model-index"][0]["results"][0]["dataset"]["name"] == "imagenette"


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {"config": None, "measured": 3, "timm": ["a"]},
        {
            "config": {"model": {"name": "a\n---\nlicense: mit"}, "data": {"name": {}}},
            "measured": {"integer": {"top1": 1}},
        },
        {"config": {"data": {"name": "x"}}, "measured": {"integer": {"top1": True}, "float": []}, "weights": "w"},
    ],
    ids=["empty", "other types", "a line of its own", "a truth as a figure"],
)
def test_whatever_a_file_says_of_its_origin_the_front_matter_parses_and_holds_our_keys_alone(
    provenance: dict[str, Any],
) -> None:
    said = front_matter(card_with(provenance))
    assert said.keys() <= {"library_name", "pipeline_tag", "tags", "model-index", "base_model"}
    assert "model-index" not in said


def test_a_card_is_written_anew_and_equal_programs_have_equal_cards(tmp_path: Path) -> None:
    save_checkpoint(random_program(4), tmp_path / "a")
    first = (tmp_path / "a" / "README.md").read_bytes()
    (tmp_path / "a" / "README.md").write_text("mine")
    assert load_checkpoint(tmp_path / "a") == random_program(4)  # no reader needs it
    save_checkpoint(load_checkpoint(tmp_path / "a"), tmp_path / "a")
    assert (tmp_path / "a" / "README.md").read_bytes() == first


def test_a_card_of_labels_for_each_pixel_says_so_with_their_figures() -> None:
    program = dense_program(3, (2, 3), 4, ("upsample", "argmax"))
    figures = {"miou": 61.5, "pixel_accuracy": 90.0, "agreement": 99.0}
    runtimes = {"numpy": {**figures, "mismatches": 0, "score_mismatches": 0, "images_per_second": 3.5}}
    evaluation = {"data": "camvid", "images": 5, "float": figures, "runtimes": runtimes}
    card = model_card(program, bounds(program), evaluation=evaluation)
    assert "- Output: int32 labels [8, 12]: for each pixel one of 3 classes.\n" in card
    assert 'labels = intvit.load("FOLDER")(images)' in card
    assert "| | mIoU % | pixel accuracy % |" in card
    assert "| integer | 61.50 | 90.00 |" in card
    assert "On 5 images of `camvid`. Pixels that differ from the model's: numpy 0." in card
    (result,) = front_matter(card)["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("mean_iou", 61.5),
        ("accuracy", 90.0),
    ]
    program.provenance = {"config": {"data": {"name": "camvid"}}, "measured": {"integer": figures}}
    assert "| integer | 61.50 | 90.00 |" in model_card(program, bounds(program))
