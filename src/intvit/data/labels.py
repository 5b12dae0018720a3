"""The label of a sample of a shard: a number, or the name of a class that becomes one once all names are known."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from intvit.data.config import DataError
from intvit.data.imagenet import imagenet_labels

SIDE_BY_SIDE = "both must stand side by side in the tar"


def find_label(key: str, texts: Mapping[str, bytes], files: str, label_field: str | None) -> int | str:
    """The label of the sample `key`: its number, or the name of its class.

    texts: content of the first that it has of .cls, .txt and .json; files: all that it has, for messages. With a
    label_field the label is in that field of the .json. Otherwise it is in the .cls (a number), else in the .txt (a
    number or a name), else the folder of the key is the name. Raises ValueError with the reason where there is none.
    """
    if label_field is not None:
        return _of_json(texts.get("json"), label_field, files)
    if "cls" in texts:
        number = _number(texts["cls"].decode("utf-8-sig", errors="replace").strip())
        if number is None:
            raise ValueError(
                f"label {texts['cls'][:40]!r} is not a number; .cls must hold the class index, names go into a .txt"
            )
        return number
    if "txt" in texts:
        return _number_or_name(texts["txt"].decode("utf-8-sig", errors="replace"), ".txt")
    folder = key.rpartition("/")[0].rpartition("/")[2]
    if "json" in texts:
        raise ValueError(f"has no label (.cls), only {files}; if its .json has one, say data.label_field=NAME")
    if not folder:
        raise ValueError(f"has no label (.cls), only {files}; {SIDE_BY_SIDE}")
    return unicodedata.normalize("NFC", folder)


def _of_json(text: bytes | None, label_field: str, files: str) -> int | str:
    if text is None:
        raise ValueError(f"has no .json, only {files}, and data.label_field={label_field} is a field of it")
    try:
        fields: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its .json cannot be read ({error})") from None
    if not isinstance(fields, dict) or label_field not in fields:
        has = f"it has {', '.join(map(str, fields))}" if isinstance(fields, dict) and fields else "it has no fields"
        raise ValueError(f"its .json has no field {label_field}; {has}; say data.label_field=NAME")
    value = fields[label_field]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _number_or_name(value, f".json's {label_field}")
    raise ValueError(f"its .json has {label_field}={str(value)[:40]}, neither a number nor the name of a class")


def _number_or_name(text: str, where: str) -> int | str:
    text = text.strip()
    if (number := _number(text)) is not None:
        return number
    if not text or "\n" in text or len(text) > 200:
        raise ValueError(f"its {where} is {text[:40]!r}, neither a number nor the name of a class")
    return unicodedata.normalize("NFC", text)


def _number(text: str) -> int | None:
    """A whole number in digits; not all that Python takes for one, such as 1_0, which is the name of a class."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None


def outside(label: int, num_classes: int | None) -> str | None:
    """What is wrong with a number as a label, if anything is."""
    if label >= 0 and (num_classes is None or label < num_classes):
        return None
    limit = "" if num_classes is None else str(num_classes - 1)
    return f"label {label} is outside 0..{limit}; mend it or set data.num_classes"


def label_of(classes: tuple[str, ...], where: str, num_classes: int, *, imagenet: bool) -> dict[str, int]:
    """Name of every class -> its label: ImageNet's, or its number in `classes`. Raises DataError for another number."""
    if imagenet:
        return dict(zip(classes, imagenet_labels(classes, where).tolist(), strict=True))
    if len(classes) != num_classes:
        raise DataError(
            f"{where}: its labels name {len(classes)} classes ({classes[0]}, ...), data.num_classes={num_classes}; say "
            f"data.num_classes={len(classes)}"
        )
    return {name: label for label, name in enumerate(classes)}
