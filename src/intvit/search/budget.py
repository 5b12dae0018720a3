"""What a program uses, read off the recorded program, and the limits that a search keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from intvit.errors import IntVitError
from intvit.program import Program, bounds
from intvit.program.cost import operator_costs

ACCUMULATOR = 32  # bits: values of this width are sums and scores, not stored tensors
NO16 = "no16"
BUDGETS = {
    "bytes": "weights and other constants at their widths (on disk 5 to 7 bits take a whole byte)",
    "bitops": "MACs of an image times the widths of both operands",
    "accumulator": "bits of the widest sum, proven for every image",
    "widest": f"bits of the widest tensor between operators; {NO16} is widest=8",
}
_SUFFIXES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Usage:
    """Of one program, by the names of BUDGETS. sums: bits of every accumulator by operator, where they were proven."""

    bytes: float
    bitops: int
    widest: int
    sums: dict[str, int]

    @property
    def accumulator(self) -> int:
        """Bits of the widest sum."""
        return max(self.sums.values(), default=0)


def usage(program: Program, *, prove: bool) -> Usage:
    """prove: also find the accumulators' widths, which takes longer than all the rest."""
    costs = operator_costs(program)
    widths = [value.bits for value in program.values.values() if value.bits < ACCUMULATOR]
    proven = bounds(program) if prove else {}
    return Usage(
        bytes=sum(cost.weight_bytes for cost in costs),
        bitops=sum(cost.bit_operations for cost in costs),
        widest=max(widths),
        sums={name: entry.accumulator.bits for name, entry in proven.items() if entry.accumulator},
    )


@dataclass(frozen=True)
class Budget:
    """Largest value by the names of BUDGETS; what is not named is free."""

    limits: dict[str, float]

    def fits(self, used: Usage) -> bool:
        """Whether a program that uses so much is within every limit."""
        return all(getattr(used, name) <= limit for name, limit in self.limits.items())

    def used(self, used: Usage) -> str:
        """What of a usage is limited, in words."""
        return ", ".join(f"{name} {getattr(used, name):,.0f}" for name in self.limits)

    def __str__(self) -> str:
        return ", ".join(f"{name} at most {limit:,.0f}" for name, limit in self.limits.items())


Limit = tuple[str, float | str]  # a name of BUDGETS, and an amount or a preset that uses as much


def parse(texts: Sequence[str], presets: Sequence[str]) -> list[Limit]:
    """`bytes=4.5M`, `bitops=w6a6` (as much as that preset uses), `accumulator=24`, `no16`. Raises IntVitError."""
    limits: list[Limit] = []
    for text in texts:
        name, _, amount = ("widest", "", "8") if text == NO16 else text.partition("=")
        if name not in BUDGETS or not amount:
            choices = ", ".join(f"{known}=AMOUNT" for known in BUDGETS)
            raise IntVitError(f"--budget {text}: expected one of {choices}, {NO16}; AMOUNT: 24, 4.5M, 60G or a preset")
        limit = _amount(amount)
        if limit is None and amount not in presets:
            raise IntVitError(f"--budget {text}: {amount} is no amount (24, 4.5M, 60G) and no preset of quant/")
        limits.append((name, amount if limit is None else limit))
    return limits


def budget_of(limits: Sequence[Limit], preset_usage: Callable[[str], Usage]) -> Budget:
    """The budget that keeps all of them."""
    least: dict[str, float] = {}
    for name, amount in limits:
        limit = float(getattr(preset_usage(amount), name)) if isinstance(amount, str) else amount
        least[name] = min(limit, least.get(name, limit))
    return Budget(least)


def _amount(text: str) -> float | None:
    """4.5M -> 4500000.0; None for what is no positive number."""
    number, factor = (text[:-1], _SUFFIXES[text[-1]]) if text[-1] in _SUFFIXES else (text, 1)
    try:
        value = float(number) * factor
    except ValueError:
        return None
    return value if 0.0 < value < float("inf") else None
