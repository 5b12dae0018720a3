"""The operators again, in Python's unbounded integers: written from the format's definitions, one value at a time.

Every intermediate passes through `int64`, which fails where a 64-bit machine would overflow.
"""

import math

from intvit.arithmetic import to_fields


def int64(value: int) -> int:
    assert -(2**63) <= value < 2**63, f"intermediate {value} needs {value.bit_length() + 1} bits"
    return value


def clamp(value: int, bits: int, signed: bool = True) -> int:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return max(low, min(high, value))


def requantize(acc: int, m: int, e: int, bits: int, signed: bool = True) -> int:
    return clamp(int64(int64(acc * m) + 2 ** (e - 1)) >> e, bits, signed)


def encode_ratio(ratio: float, bits: int, signed: bool, reserve: int, operand_bits: int) -> tuple[int, int]:
    if ratio == 0:
        return 0, 1
    length = min(31, 62 - operand_bits)
    e = min(length - math.frexp(ratio)[1], 53 - (bits - 1 if signed else bits) - reserve)
    m = min(math.floor(math.ldexp(abs(ratio), e) + 0.5), 2**length - 1)
    return (m if ratio > 0 else -m), e


def add(a: int, b: int, m_a: int, m_b: int, e: int, bits: int) -> int:
    return clamp(int64(int64(a * m_a) + int64(b * m_b) + 2 ** (e - 1)) >> e, bits)


def shift_exponential(x: int, x0: int, n: int, fraction_bits: int) -> int:
    x = int64(x << fraction_bits)
    x = x + (x >> 1) - (x >> 4)
    x = max(x, n * x0)
    q = x // x0
    r = x - q * x0
    return int64(((r >> 1) - x0) << (n - q))


def shift_round(v: int, k: int) -> int:
    return int64(v << -k) if k <= 0 else (v + 2 ** (k - 1)) >> k


def pieces(x: int, bounds: list[int], origins: list[int], coefficients: list[list[int]], g: int) -> int:
    segment = sum(bound <= x for bound in bounds)
    t, c = x - origins[segment], coefficients[segment]
    v = c[-1]
    for lower in reversed(c[:-1]):
        v = (int64(int64(v * t) + 2 ** (g - 1)) >> g) + lower
    return v


def exponential(x: int, kind: str, fields: dict) -> int:
    """E(x) of a kind of exponent; fields hold its attributes, and its constants as nested lists."""
    if kind == "table":
        return fields["table"][-x]
    if kind == "shift":
        return shift_exponential(x, fields["x0"], fields["n"], fields["fraction_bits"])
    if kind == "polynomial":
        x0 = fields["x0"]
        x = max(int64(x << fields["fraction_bits"]), fields["n"] * x0)
        q = x // x0
        r = x - q * x0
        return shift_round(int64((r + fields["b"]) ** 2 + fields["c"]), q - fields["u"])
    assert kind == "piecewise"
    return max(0, pieces(-x, fields["bounds"], fields["origins"], fields["coefficients"], fields["step_shift"]))


def softmax(logits: list[int], kind: str, fields: dict, bits: int, normalization: str) -> list[int]:
    exponentials = [exponential(x - max(logits), kind, fields) for x in logits]
    return normalize(exponentials, bits, normalization)


def normalize(exponentials: list[int], bits: int, normalization: str) -> list[int]:
    total = sum(exponentials)
    assert 0 < total < 2**31
    if normalization == "floor":
        factor = (2**31 - 1) // total
        return [int64(e * factor) >> (32 - bits) for e in exponentials]
    assert max(exponentials) >= 2**15
    factor = (2**46 - 1) // total
    return [min(int64(e * factor + 2 ** (45 - bits)) >> (46 - bits), 2**bits - 1) for e in exponentials]


def gelu(row: list[int], kind: str, fields: dict) -> list[int]:
    if kind == "table":
        return [fields["table"][x + len(fields["table"]) // 2] for x in row]
    if kind == "shift":
        limit, bits = fields["limit"], fields["reciprocal_bits"]
        maximum = min(max(0, *row), limit)
        shape = (fields["x0"], fields["n"], fields["fraction_bits"])
        values = []
        for x in row:
            a, b = shift_exponential(min(x, limit) - maximum, *shape), shift_exponential(-maximum, *shape)
            assert a + b < 2**31
            ratio = a * ((2**bits - 1) // (a + b))
            assert ratio < 2**bits
            values.append(x * (int64(ratio) >> (bits - fields["sigmoid_bits"])))
    elif kind == "polynomial":
        values = [_gelu_polynomial(x, fields) for x in row]
    else:
        values = [
            pieces(x, fields["bounds"], fields["origins"], fields["coefficients"], fields["step_shift"]) for x in row
        ]
    return [requantize(v, fields["multiplier"], fields["shift"], fields["bits"]) for v in values]


def _gelu_polynomial(x: int, fields: dict) -> int:
    y = x << fields["fraction_bits"]
    a = min(abs(y), -fields["b"])
    sign = (y > 0) - (y < 0)
    erf = sign * (int64((a + fields["b"]) ** 2) + fields["c"])
    return int64(y * (erf + fields["one"]))


def normalized(row: list[int], method: str, k: int, newton_steps: int, square_shift: int) -> list[int]:
    channels, total = len(row), sum(row)
    if method == "exact":
        variance = int64(channels * sum(x * x for x in row)) - int64(total * total)
        y, root, numerator = [channels * x - total for x in row], math.isqrt(variance), 2**40
    else:
        mean = (2 * total + channels) // (2 * channels)
        y = [x - mean for x in row]
        z = [v >> square_shift for v in y]
        variance, numerator = int64(sum(v * v for v in z)), 2**31 - 1
        if method == "ibert":
            assert variance < 2**32
        root = newton(variance, newton_steps) if newton_steps else math.isqrt(variance)
        root <<= square_shift
    if variance == 0:
        return [0] * channels
    return [int64(v * (numerator // root)) >> k for v in y]


def newton(v: int, steps: int) -> int:
    root = 2**16
    for _ in range(steps):
        root = (root + v // root) >> 1
    return root


def layernorm(row: list[int], normalizer: dict, affine: dict) -> list[int]:
    shifts = normalizer.get("channel_shift") or [0] * len(row)
    row = [x << s for x, s in zip(row, shifts, strict=True)]
    names = ("method", "normalizer_shift", "newton_steps", "square_shift")
    n = normalized(row, *(normalizer[name] for name in names))
    return [
        clamp(int64(int64(v * m) + b + 2 ** (e - 1)) >> e, affine["bits"])
        for v, m, b, e in zip(n, affine["multiplier"], affine["bias"], affine["shift"], strict=True)
    ]


def fields_of(parameters) -> dict:
    """The fields of a parameter dataclass as a program holds them, tensors as nested lists."""
    attributes, constants = to_fields(parameters)
    return attributes | {name: value.tolist() for name, value in constants.items()}
