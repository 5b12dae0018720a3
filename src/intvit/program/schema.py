"""The JSON schema of program.json, made from the table of operators; `python -m intvit.program.schema` prints it.

What a schema can say: keys, types, ranges, each operator's attributes and roles of constants by kind. It cannot say
that shapes agree, that names are defined before they are used and that nothing overflows; the loader checks that.
"""

import json
from typing import Any

from intvit.program.document import FORMAT, VERSION
from intvit.program.forms import Attribute, Choice, Flag, Form, Integer, Integers, Role
from intvit.program.operators import OPERATORS
from intvit.program.weights import FILE as WEIGHTS

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_SHAPE: Schema = {"type": "array", "maxItems": 16, "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}


def schema() -> Schema:
    """JSON Schema, draft 2020-12."""
    tensor: Schema = {
        "shape": _SHAPE,
        "bits": {"type": "integer", "minimum": 1, "maximum": 64},
        "signed": {"type": "boolean"},
    }
    weights: Schema = {"file": {"const": WEIGHTS}, "bytes": {"type": "integer", "minimum": 0}, "sha256": _STRING}
    operators = [_operator(op, form, kind) for op, form in OPERATORS.items() for kind in form.kinds or [None]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The integer program of an IntViT checkpoint (program.json)",
        **_object(
            {
                "format": {"const": FORMAT},
                "version": {"const": VERSION},
                "input": _object({"name": _STRING, "shape": _SHAPE | {"minItems": 3, "maxItems": 3}}),
                "output": _STRING,
                "score_scale": {"type": "number"},
                "classes": {"type": "array", "items": _STRING},
                "provenance": {"type": "object"},
                "weights": _object(weights),
                "constants": {"type": "object", "additionalProperties": _object(tensor)},
                "values": {
                    "type": "object",
                    "additionalProperties": _object(tensor | {"scale": {"type": ["number", "null"]}}),
                },
                "operators": {"type": "array", "items": {"oneOf": operators}},
            }
        ),
    }


def _object(properties: Schema, optional: set[str] | None = None) -> Schema:
    """An object with these keys and no others."""
    required = [key for key in properties if key not in (optional or ())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _operator(op: str, form: Form, kind: str | None) -> Schema:
    """One operator, of one kind or method if it has those."""
    attributes, roles = dict(form.attributes), dict(form.constants)
    properties: dict[str, Schema] = {}
    if kind is not None:
        assert form.kind_attribute is not None
        attributes |= form.kinds[kind][0]
        roles |= form.kinds[kind][1]
        properties[form.kind_attribute] = {"const": kind}
    properties |= {key: _attribute(rule) for key, rule in attributes.items()}
    least, most = form.inputs
    inputs = {"type": "array", "items": _STRING, "minItems": least}
    return _object(
        {
            "op": {"const": op},
            "name": _STRING,
            "inputs": inputs | ({"maxItems": most} if most < 2**31 - 1 else {}),
            "output": _STRING,
            "attributes": _object(properties),
            "constants": _roles(roles),
        }
    )


def _roles(roles: dict[str, Role]) -> Schema:
    return _object(dict.fromkeys(roles, _STRING), {role for role, rule in roles.items() if rule.optional})


def _attribute(rule: Attribute) -> Schema:
    match rule:
        case Integer(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case Integers(low, high):
            return {"type": "array", "items": {"type": "integer", "minimum": low, "maximum": high}}
        case Choice(names):
            return {"enum": list(names)}
        case Flag():
            return {"type": "boolean"}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
