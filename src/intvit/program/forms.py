"""What an operator must carry, as data: rules for attributes and constants, and the checks of one operator by them.

The rules of each operator are in operators.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from intvit.program.program import Constant, Operator, ProgramError, Value


@dataclass(frozen=True)
class Integer:
    """An integer attribute in [low, high]."""

    low: int
    high: int

    def problem(self, value: Any) -> str | None:
        if type(value) is not int or not self.low <= value <= self.high:
            return f"expected an integer from {self.low} to {self.high}"
        return None


@dataclass(frozen=True)
class Integers:
    """A list of integers, each in [low, high]."""

    low: int
    high: int

    def problem(self, value: Any) -> str | None:
        if type(value) is not tuple or any(type(v) is not int or not self.low <= v <= self.high for v in value):
            return f"expected a list of integers from {self.low} to {self.high}"
        return None


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    def problem(self, value: Any) -> str | None:
        return None if value in self.names else f"expected one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Flag:
    """A boolean attribute."""

    def problem(self, value: Any) -> str | None:
        return None if type(value) is bool else "expected true or false"


Attribute = Integer | Integers | Choice | Flag


@dataclass(frozen=True)
class Role:
    """A constant: allowed shapes, widest declared width, and the range of its values.

    Shapes are written with symbols: `C` is the last axis of the first input, `A` the first one, `L` the number of
    integers of the input's width (2^bits); other symbols are free, but mean the same size in every role of an operator.
    """

    shapes: tuple[str, ...]
    bits: int
    low: int | None = None
    high: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Form:
    """What an operator carries. `kinds` adds attributes and constants by the value of attribute `kind_attribute`."""

    inputs: tuple[int, int]
    infer: Callable[[Operator, list[Value], dict[str, Constant]], tuple[tuple[int, ...], int, bool]]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    constants: dict[str, Role] = field(default_factory=dict)
    kind_attribute: str | None = None
    kinds: dict[str, tuple[dict[str, Attribute], dict[str, Role]]] = field(default_factory=dict)


def check_attribute(operator: Operator, key: str, rule: Attribute, value: Any) -> None:
    problem = rule.problem(value)
    if problem:
        raise ProgramError(f"{operator}: attribute {key!r} is {value!r}, {problem}")


def check_attributes(operator: Operator, rules: dict[str, Attribute]) -> None:
    for key in operator.attributes:
        if key not in rules:
            raise ProgramError(f"{operator}: unknown attribute {key!r}; known: {', '.join(rules) or 'none'}")
    for key, rule in rules.items():
        if key in operator.attributes:
            check_attribute(operator, key, rule, operator.attributes[key])
        else:
            raise ProgramError(f"{operator}: attribute {key!r} is missing")


def check_constants(
    operator: Operator, inputs: list[Value], constants: dict[str, Constant], roles: dict[str, Role]
) -> None:
    for key in constants:
        if key not in roles:
            raise ProgramError(f"{operator}: unknown constant role {key!r}; known: {', '.join(roles) or 'none'}")
    sizes: dict[str, int] = {}
    if inputs and inputs[0].shape:
        sizes = {"A": inputs[0].shape[0], "C": inputs[0].shape[-1], "L": 1 << inputs[0].bits}
    for key, role in roles.items():
        if key not in constants:
            if role.optional:
                continue
            raise ProgramError(f"{operator}: constant {key!r} is missing")
        constant, array = constants[key], constants[key].array
        if role.shapes and not any(_match(shape, array.shape, sizes) for shape in role.shapes):
            expected = " or ".join(f"[{shape}]" for shape in role.shapes)
            known = ", ".join(
                f"{symbol} = {size}" for symbol, size in sizes.items() if any(symbol in s for s in role.shapes)
            )
            known = f" with {known}" if known else ""
            raise ProgramError(
                f"{operator}: constant {key!r} has shape {list(array.shape)}, expected {expected}{known}"
            )
        if constant.bits > role.bits:
            raise ProgramError(
                f"{operator}: constant {key!r} declares {constant.bits} bits, at most {role.bits} allowed"
            )
        if array.size and role.low is not None and int(array.min()) < role.low:
            raise ProgramError(f"{operator}: constant {key!r} holds {int(array.min())}, expected at least {role.low}")
        if array.size and role.high is not None and int(array.max()) > role.high:
            raise ProgramError(f"{operator}: constant {key!r} holds {int(array.max())}, expected at most {role.high}")


def _match(pattern: str, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Does `shape` fit a pattern such as "N,K" or "S-1"? Binds the pattern's free symbols in `sizes` if so."""
    tokens = pattern.split(",")
    if len(tokens) != len(shape):
        return False
    bound = dict(sizes)
    for token, size in zip(tokens, shape, strict=True):
        symbol, _, less = token.partition("-")
        expected = int(symbol) if symbol.isdigit() else bound.setdefault(symbol, size + int(less or 0))
        if size != expected - int(less or 0):
            return False
    sizes.update(bound)
    return True
