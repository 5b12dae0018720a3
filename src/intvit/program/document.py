"""program.json: a Program without its arrays, to and from JSON. Structure only; check.py judges the content."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from intvit.program.program import Operator, Program, ProgramError, Value

FORMAT, VERSION = "intvit", 1
FILE = "program.json"


@dataclass(frozen=True)
class Declaration:
    """A constant as program.json declares it; the array is in the weights file."""

    shape: tuple[int, ...]
    bits: int
    signed: bool


def to_json(program: Program, weights: dict[str, Any]) -> str:
    """The text of program.json. `weights`: name, size and sha256 of the weights file."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "input": {"name": program.input, "shape": list(program.values[program.input].shape)},
        "output": program.output,
        "score_scale": program.score_scale,
        "classes": program.classes,
        "provenance": program.provenance,
        "weights": weights,
        "constants": {
            name: {"shape": list(constant.array.shape), "bits": constant.bits, "signed": constant.signed}
            for name, constant in program.constants.items()
        },
        "values": {
            name: {"shape": list(value.shape), "bits": value.bits, "signed": value.signed, "scale": value.scale}
            for name, value in program.values.items()
        },
        "operators": [
            {
                "op": operator.op,
                "name": operator.name,
                "inputs": list(operator.inputs),
                "output": operator.output,
                "attributes": operator.attributes,
                "constants": operator.constants,
            }
            for operator in program.operators
        ],
    }
    try:
        text = _dump(document)
        text.encode()
        return text
    except UnicodeEncodeError as error:
        part = error.object[max(error.start - 20, 0) : error.end + 20]
        raise ProgramError(f"the program has a text that is not UTF-8: {part!r}; rename what is called so") from None
    except (TypeError, ValueError) as error:
        raise ProgramError(f"the program does not fit JSON: {error}; use plain Python values in provenance") from None


def _dump(document: dict[str, Any]) -> str:
    """One line per constant, value and operator: small, and readable in a diff."""

    def line(value: Any) -> str:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)

    parts = []
    for key, value in document.items():
        if key in ("constants", "values"):
            rows = ",\n  ".join(f"{line(name)}: {line(entry)}" for name, entry in value.items())
            parts.append(f'"{key}": {{\n  {rows}\n}}' if rows else f'"{key}": {{}}')
        elif key == "operators":
            rows = ",\n  ".join(line(entry) for entry in value)
            parts.append(f'"{key}": [\n  {rows}\n]')
        else:
            parts.append(f"{line(key)}: {line(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def from_json(text: str) -> tuple[Program, dict[str, Declaration], dict[str, Any]]:
    """The program without arrays, the declared constants, and the weights file's entry. Raises ProgramError."""
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except ProgramError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProgramError(
            f"{FILE} is not valid JSON ({error}); the file is damaged or was edited, export again"
        ) from None
    if re.search(r"\\u[dD][89a-fA-F]", text) and not _is_utf8(document):
        raise ProgramError(f"{FILE} holds a text that is not UTF-8; the file is damaged or was edited, export again")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProgramError(f'{FILE} does not say "format": "{FORMAT}"; this is not an integer checkpoint')
    if document.get("version") != VERSION:
        found = document.get("version")
        raise ProgramError(
            f"{FILE} has format version {found!r}, this release reads {VERSION}; use a matching release of intvit"
        )
    keys = {"format", "version", "input", "output", "score_scale", "classes", "provenance", "weights"}
    _known(document, keys | {"constants", "values", "operators"}, FILE)
    weights = _get(document, "weights", dict, FILE)
    _known(weights, {"file", "bytes", "sha256"}, f"{FILE}: weights")
    image = _get(document, "input", dict, FILE)
    _known(image, {"name", "shape"}, f"{FILE}: input")
    declarations = {
        name: Declaration(*_tensor(entry, f"{FILE}: constant {name!r}", set()))
        for name, entry in _get(document, "constants", dict, FILE).items()
    }
    values = {
        name: Value(*_tensor(entry, f"{FILE}: value {name!r}", {"scale"}), _scale(entry, f"{FILE}: value {name!r}"))
        for name, entry in _get(document, "values", dict, FILE).items()
    }
    program = Program(
        input=_get(image, "name", str, f"{FILE}: input"),
        output=_get(document, "output", str, FILE),
        values=values,
        constants={},
        operators=[_operator(entry, i) for i, entry in enumerate(_get(document, "operators", list, FILE))],
        score_scale=_get(document, "score_scale", float, FILE),
        classes=_strings(document, "classes", FILE),
        provenance=_get(document, "provenance", dict, FILE),
    )
    shape = _sizes(image, f"{FILE}: input")
    if program.input not in values or values[program.input].shape != shape:
        raise ProgramError(
            f"{FILE}: input {program.input!r} of shape {list(shape)} does not agree with its entry in values"
        )
    return program, declarations, weights


def _is_utf8(document: Any) -> bool:
    """Whether no text is half a pair of surrogates, which JSON can spell and nothing can print."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ProgramError(f"{FILE}: the key {twice!r} stands twice in one object; names are unique")
    return result


def _refuse(text: str) -> None:
    raise ProgramError(f"{FILE}: {text} is not a number that JSON allows")


def _known(entry: dict[str, Any], keys: set[str], where: str) -> None:
    for key in entry:
        if key not in keys:
            raise ProgramError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(keys))}")


def _get(entry: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in entry:
        raise ProgramError(f"{where}: key {key!r} is missing")
    value: Any = entry[key]
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind or (type(value) is float and not math.isfinite(value)):
        expected = "a finite number" if kind is float else kind.__name__
        raise ProgramError(f"{where}: {key!r} is of type {type(value).__name__}, expected {expected}")
    return value


def _strings(entry: dict[str, Any], key: str, where: str) -> list[str]:
    values: list[str] = _get(entry, key, list, where)
    if any(type(value) is not str for value in values):
        raise ProgramError(f"{where}: {key!r} must be a list of strings")
    return values


def _sizes(entry: dict[str, Any], where: str) -> tuple[int, ...]:
    shape = _get(entry, "shape", list, where)
    if len(shape) > 16 or any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise ProgramError(f"{where}: shape {shape!r} must be a list of at most 16 sizes from 0 to 2^31 - 1")
    if math.prod(max(size, 1) for size in shape) >= 2**62:
        raise ProgramError(f"{where}: shape {shape!r} is too large")
    return tuple(shape)


def _tensor(entry: Any, where: str, more: set[str]) -> tuple[tuple[int, ...], int, bool]:
    if not isinstance(entry, dict):
        raise ProgramError(f"{where} is of type {type(entry).__name__}, expected an object")
    _known(entry, {"shape", "bits", "signed"} | more, where)
    signed, bits = _get(entry, "signed", bool, where), _get(entry, "bits", int, where)
    if not 1 <= bits <= (64 if signed else 63):
        raise ProgramError(f"{where}: {bits} bits, expected 1 to {64 if signed else 63}")
    return _sizes(entry, where), bits, signed


def _scale(entry: dict[str, Any], where: str) -> float | None:
    return None if entry.get("scale", 0) is None else _get(entry, "scale", float, where)


def _operator(entry: Any, index: int) -> Operator:
    where = f"{FILE}: operators[{index}]"
    if not isinstance(entry, dict):
        raise ProgramError(f"{where} is of type {type(entry).__name__}, expected an object")
    _known(entry, {"op", "name", "inputs", "output", "attributes", "constants"}, where)
    constants = _get(entry, "constants", dict, where)
    _strings({"constants": list(constants.values())}, "constants", where)
    return Operator(
        op=_get(entry, "op", str, where),
        name=_get(entry, "name", str, where),
        inputs=tuple(_strings(entry, "inputs", where)),
        output=_get(entry, "output", str, where),
        attributes=_get(entry, "attributes", dict, where),
        constants=constants,
    )
