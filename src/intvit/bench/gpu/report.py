"""The report of one part: rows written as they come, so that those before a crash or a time limit are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intvit.errors import IntVitError
from intvit.files import write_json, write_text

PASSED, FAILED, LEFT_OUT, UNFINISHED = "passed", "failed", "left out", "unfinished"


class NotHere(IntVitError):
    """This machine lacks what a part needs; the message says what."""


@dataclass(frozen=True)
class Place:
    """Where the parts run: on a GPU at full size, else on the CPU at reduced size, where that says something."""

    device: torch.device

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.gpu else "CPU, reduced size"

    @classmethod
    def reduced(cls) -> Place:
        """The CPU, whose models are of reduced size."""
        return cls(torch.device("cpu"))

    def needs_gpu(self) -> None:
        """Raises NotHere on a CPU."""
        if not self.gpu:
            raise NotHere("needs a GPU")

    def needs_kernels(self) -> None:
        """Raises NotHere without Triton, and on a CPU where it does not interpret."""
        if find_spec("triton") is None:
            raise NotHere("needs Triton: pip install 'intvit[cuda]'")
        from triton import knobs

        if self.gpu and knobs.runtime.interpret:
            raise NotHere("needs compiled kernels: unset TRITON_INTERPRET")
        if not self.gpu and not knobs.runtime.interpret:
            raise NotHere("needs a GPU, or TRITON_INTERPRET=1 for the CPU")


def place() -> Place:
    """The current GPU, else the CPU."""
    return Place(
        torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    )


class Report:
    """status: PASSED only where every row is equal and nothing was raised; a row with `equal` False is a failure."""

    def __init__(self, part: str, folder: Path, where: Place) -> None:
        self.part, self.path, self.place = part, folder / f"{part}.json", where
        self.rows: list[dict[str, Any]] = []
        self.status, self.reason, self.begun = UNFINISHED, "", time.monotonic()
        self._write()

    def add(self, case: str, **figures: Any) -> None:
        """One row, written at once."""
        self.rows.append({"case": case, **figures})
        self._write()

    def equality(self, case: str, differing: list[str]) -> None:
        """A row of a comparison: what differs, nothing where all is equal."""
        self.add(case, equal=not differing, differs=differing[:8])

    def run(self, part: Callable[[Report], None]) -> str:
        """Run the part; its status. An exception is a failure, and is kept."""
        try:
            part(self)
            wrong = [row["case"] for row in self.rows if row.get("equal") is False]
            self.status, self.reason = (FAILED, f"differs: {', '.join(wrong)}") if wrong else (PASSED, "")
        except NotHere as error:
            self.status, self.reason = LEFT_OUT, str(error)
        except Exception as error:  # whatever it is, the other parts go on
            self.status, self.reason = FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:500]
        self._write()
        return self.status

    def _write(self) -> None:
        values = {
            "part": self.part,
            "status": self.status,
            "reason": self.reason,
            "device": self.place.name,
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - self.begun, 1),
            "rows": self.rows,
        }
        write_json(self.path, values)


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names under which tensors are not equal as integers, or are there once only; tensors of any device."""
    wrong = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        a, b = found[name].cpu(), expected[name].cpu()
        if a.shape != b.shape or not torch.equal(a.double(), b.double()):
            wrong.append(name)
    return wrong


def write_table(folder: Path, parts: list[str]) -> str:
    """folder/table.md of the parts that have a report there; the text."""
    lines = ["| part | case | result |", "|---|---|---|"]
    for path in (folder / f"{part}.json" for part in parts):
        if not path.exists():
            continue
        report = json.loads(path.read_text())
        reason = f": {report['reason']}" if report["reason"] else ""
        head = f"{report['status']}{reason}; {report['device']}, {report['seconds']} s"
        lines.append(f"| **{report['part']}** | | {head} |")
        lines += [f"| {report['part']} | {row['case']} | {_result(row)} |" for row in report["rows"]]
    text = "\n".join(lines) + "\n"
    write_text(folder / "table.md", text)
    return text


def _result(row: dict[str, Any]) -> str:
    """equal, or what differs; figures by name."""
    if "equal" in row:
        return "equal" if row["equal"] else f"DIFFERS: {', '.join(row['differs'])}"
    shown = ((k, f"{v:.4g}" if isinstance(v, float) else v) for k, v in row.items() if k != "case" and v is not None)
    return ", ".join(f"{key} {value}" for key, value in shown)
