"""The model card of a checkpoint: README.md beside program.json, from what the program and its proof say. No clock.

Its front matter is what the Hugging Face Hub reads. Equal programs have equal cards; an export writes it anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from intvit.program.bounds import OperatorBounds
from intvit.program.cost import macs
from intvit.program.program import Program, ProgramError

FILE = "README.md"
# Figures of evaluation.json and their columns, of labels for an image and for each pixel; the first counts as measured.
COLUMNS = {"top1": "top-1 %", "top5": "top-5 %"}
PIXEL_COLUMNS = {"miou": "mIoU %", "pixel_accuracy": "pixel accuracy %"}
METRICS = {"miou": "mean_iou"}  # the Hub's names, where not `accuracy`
TASKS = {"classes": "image-classification", "features": "image-feature-extraction", "map": "image-segmentation"}


def model_card(
    program: Program,
    proven: Mapping[str, OperatorBounds],
    *,
    license: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md for a checked program and its `bounds`.

    license: of the weights, in the Hub's words, such as `apache-2.0`. evaluation: what evaluation.json holds; without
    it the card shows the accuracy that the provenance records, where it records one. Raises ProgramError for the
    evaluation of a model of another task.
    """
    figures = _figures(program, evaluation)
    if evaluation is not None and not figures:
        wanted = next(iter(_columns(program)))
        raise ProgramError(
            f"the evaluation has no {wanted}: it is of another model; give the evaluation.json of this one"
        )
    data = _text(_config(program, "data"), "name") if evaluation is None else _text(evaluation, "data")
    parts = [_front_matter(program, license, figures, data), f"# {_title(program)}\n", _description(program)]
    if figures:
        parts.append(_accuracy(program, figures, evaluation, data))
    parts += [_operators(program), _proof(program, proven), _use(program)]
    return "\n".join(parts)


def _config(program: Program, group: str) -> dict[str, Any]:
    """A group of the run's config that the provenance records; empty where it records none."""
    config = program.provenance.get("config")
    found = config.get(group) if isinstance(config, dict) else None
    return found if isinstance(found, dict) else {}


def _text(values: Mapping[str, Any], key: str) -> str | None:
    """An entry that is a text, on one line; None for anything else, which a file of others may hold."""
    found = values.get(key)
    return " ".join(found.split()) or None if isinstance(found, str) else None


def _preset(program: Program) -> str | None:
    return _text(_config(program, "quant"), "name") or _text(program.provenance, "preset")


def _title(program: Program) -> str:
    model = _text(_config(program, "model"), "name") or _text(program.provenance, "timm") or "Vision transformer"
    return f"{model}, {_preset(program) or 'integers only'}"


def _kind(program: Program) -> str:
    """`classes`, `features` or `map`: what the output is."""
    if len(program.values[program.output].shape) > 1:
        return "map"
    last = program.producer(program.output)
    before = program.producer(last.inputs[0]) if last is not None and last.inputs else None
    return "classes" if program.classes or (before is not None and before.op == "linear") else "features"


def _figures(program: Program, evaluation: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Measured figures in percent by execution, `float` and `integer`; none where nothing was measured."""
    found: dict[str, Any] = {}
    if evaluation is not None:
        runtimes = evaluation.get("runtimes") or {}
        found = {"float": evaluation.get("float"), "integer": next(iter(runtimes.values()), None)}
    elif isinstance(measured := program.provenance.get("measured"), dict):
        found = {mode: measured.get(mode) for mode in ("float", "integer")}
    columns = _columns(program)
    kept = {
        mode: {name: float(value) for name, value in entry.items() if name in columns and _is_number(value)}
        for mode, entry in found.items()
        if isinstance(entry, dict)
    }
    return {mode: entry for mode, entry in kept.items() if next(iter(columns)) in entry}


def _columns(program: Program) -> dict[str, str]:
    return COLUMNS if program.form == "scores" else PIXEL_COLUMNS


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _front_matter(
    program: Program, license: str | None, figures: Mapping[str, Mapping[str, float]], data: str | None
) -> str:
    """YAML of which every text is a JSON string, which YAML reads alike."""
    text = json.dumps
    tags = ["integer-only", "quantization", "vision-transformer", *([p] if (p := _preset(program)) else [])]
    lines = ["---", "library_name: intvit", f"pipeline_tag: {TASKS[_kind(program)]}"]
    if license is not None:
        lines.append(f"license: {text(license)}")
    if source := _text(program.provenance, "timm"):
        lines.append(f"base_model: {text(f'timm/{source}')}")
    lines += ["tags:", *(f"- {text(tag)}" for tag in tags)]
    if "integer" in figures and data:
        lines += ["model-index:", f"- name: {text(_title(program))}", "  results:"]
        lines += ["  - task:", f"      type: {TASKS[_kind(program)]}", "    dataset:"]
        lines += [f"      name: {text(data)}", f"      type: {text(data)}", "    metrics:"]
        for name, value in figures["integer"].items():
            lines += [
                f"    - type: {METRICS.get(name, 'accuracy')}",
                f"      name: {name}",
                f"      value: {round(value, 4)}",
            ]
    return "\n".join([*lines, "---", ""])


def _description(program: Program) -> str:
    channels, height, width = program.values[program.input].shape
    size = program.values[program.output].shape
    output = {
        "classes": f"one int32 score for each of {size[-1]} classes",
        "features": f"{size[-1]} int32 features",
        "map": f"int32 scores {list(size)}",
    }[_kind(program)]
    output += f"; times {program.score_scale:.6g} they are the model's numbers"
    if program.form == "labels":
        output = f"int32 labels {list(size)}: for each pixel one of {program.num_classes} classes"
    end = "label" if program.form == "labels" else "score"
    lines = [
        f"A vision transformer that runs on integers alone, from the uint8 pixel to the {end}. Every runtime of",
        "[IntViT](https://github.com/intvit/intvit) gives equal integers for it: no tolerance, whatever the processor.",
        "",
        f"- Input: uint8 pixels ({channels}, {height}, {width}), 0..255, as they are; the program normalizes.",
        f"- Output: {output}.",
        f"- {_origin(program)}",
        "",
    ]
    return "\n".join(lines)


def _origin(program: Program) -> str:
    """One sentence: preset, data, weights, experiment, release."""
    said, data = program.provenance, _text(_config(program, "data"), "name")
    weights = said.get("weights")
    file = _text(weights, "file") if isinstance(weights, dict) else _text(_config(program, "model"), "weights")
    timm, preset, experiment = _text(said, "timm"), _preset(program), _text(said, "experiment")
    parts = [
        f"preset `{preset}`" if preset else None,
        f"data `{data}`" if data else None,
        f"weights of timm's `{timm}`" if timm else f"weights `{file}`" if file else None,
        f"experiment {experiment}" if experiment else None,
        f"IntViT {release}" if (release := _text(said, "intvit")) else None,
    ]
    known = [part for part in parts if part]
    return f"Made from: {', '.join(known)}." if known else "Where the weights are from is not recorded."


def _accuracy(
    program: Program,
    figures: Mapping[str, Mapping[str, float]],
    evaluation: Mapping[str, Any] | None,
    data: str | None,
) -> str:
    columns = _columns(program)
    rows = ["## Accuracy", "", f"| | {' | '.join(columns.values())} |", "|---|---|---|"]
    for mode, entry in figures.items():
        rows.append(f"| {mode} | " + " | ".join(f"{entry[k]:.2f}" if k in entry else "" for k in columns) + " |")
    if evaluation is None:
        return "\n".join([*rows, "", f"On the validation images of `{data}`, measured when it was trained.", ""])
    runtimes = evaluation.get("runtimes") or {}
    counted = ", ".join(f"{name} {entry.get('mismatches')}" for name, entry in runtimes.items())
    what = "Images whose integers differ" if program.form == "scores" else "Pixels that differ"
    said = f"On {evaluation.get('images')} images of `{data}`. {what} from the model's: {counted}."
    return "\n".join([*rows, "", said, ""])


def _operators(program: Program) -> str:
    counted: Counter[tuple[str, str]] = Counter()
    for operator in program.operators:
        form = operator.attributes.get("kind") or operator.attributes.get("method")
        if operator.op == "linear":
            weight = program.constants[operator.constants["weight"]]
            inputs = program.values[operator.inputs[0]].bits
            form = f"{weight.bits}-bit weights, {inputs}-bit activations"
        if operator.op == "add":
            form = f"{program.values[operator.output].bits} bits"
        if form:
            counted[operator.op, str(form)] += 1
    bits = sum(constant.array.size * constant.bits for constant in program.constants.values())
    rows = [f"| `{op}` | {form} | {count} |" for (op, form), count in counted.items()]
    lines = [
        "## Operators",
        "",
        f"{len(program.operators)} operators, {macs(program):,} MACs an image, {bits // 8:,} bytes of constants.",
        "",
        "| operator | form | count |",
        "|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def _proof(program: Program, proven: Mapping[str, OperatorBounds]) -> str:
    sums = [entry.accumulator.bits for entry in proven.values() if entry.accumulator]
    lines = [
        "## Certificate",
        "",
        f"Proven from the weights, for every image there can be: the sums of all {len(sums)} linear layers and matrix",
        f"products fit accumulators of {max(sums, default=0)} bits, in any order of addition; nothing else overflows.",
        "No tensor is floating-point. `bounds.json` has every intermediate; `intvit certify FOLDER` proves it again.",
        "",
    ]
    return "\n".join(lines)


def _use(program: Program) -> str:
    shape = ", ".join(str(side) for side in program.values[program.input].shape)
    result = "labels" if program.form == "labels" else "scores"
    lines = [
        "## Use",
        "",
        "```",
        "pip install intvit",
        "intvit run FOLDER photo.jpg",
        "```",
        "",
        "```python",
        "import intvit",
        "",
        f'{result} = intvit.load("FOLDER")(images)  # uint8 (B, {shape}) -> int32, without torch',
        "```",
        "",
        "FOLDER is where this file lies. Loading runs no code of it and checks everything.",
        "",
    ]
    return "\n".join(lines)
