"""`--family KIND=MODULE:FUNCTION`: approximations of one's own, beside ours wherever a command lists families."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from intvit.arithmetic import GELU_FAMILIES, SOFTMAX_FAMILIES
from intvit.errors import IntVitError

FAMILIES = {"gelu": GELU_FAMILIES, "softmax": SOFTMAX_FAMILIES}


def family_option(parser: argparse.ArgumentParser) -> None:
    """`--family`, as often as one likes."""
    parser.add_argument(
        "--family",
        action="append",
        default=[],
        metavar="KIND=MODULE:FUNCTION",
        help="an approximation of one's own beside ours, gelu=own_gelu:hard_gelu or softmax=...; once for each",
    )


@contextmanager
def listed_families(texts: Sequence[str]) -> Iterator[dict[str, str]]:
    """Import the functions and list them beside ours inside. Gives text -> hash of the function's module.

    Worker processes, train.py and every runtime find them again by the name in the config. Raises IntVitError.
    """
    names: dict[str, list[str]] = {kind: [] for kind in FAMILIES}
    for text in texts:
        kind, _, name = text.partition("=")
        if kind not in FAMILIES or ":" not in name:
            raise IntVitError(f"--family {text}: expected gelu=MODULE:FUNCTION or softmax=MODULE:FUNCTION")
        _ = FAMILIES[kind][name]  # looking it up imports it
        names[kind].append(name)
    with GELU_FAMILIES.listing(names["gelu"]), SOFTMAX_FAMILIES.listing(names["softmax"]):
        yield {text: _module_hash(text.partition("=")[2]) for text in texts}


def _module_hash(name: str) -> str:
    file = sys.modules[name.partition(":")[0]].__file__
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:16]
