"""Part `kernels`: the kernels of a training step on the device equal plain torch on the CPU.

Integers and magnitudes are compared as equal, over random values with many at the ends of their range. Gradients are
float sums: close to the largest entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from intvit import arithmetic
from intvit.bench.gpu.report import Report, differing
from intvit.quant.config import preset_options
from intvit.quant.kernels import AttentionOperands
from intvit.quant.kernels.accelerator import accelerator
from intvit.quant.kernels.eager import EAGER
from intvit.quant.quantizer import Addition, Requantization

# images, windows, heads, tokens, size of a head
SHAPES = [(2, 1, 3, 5, 4), (1, 4, 2, 9, 17), (1, 1, 2, 70, 8)]
FULL_SHAPES = [*SHAPES, (2, 1, 6, 197, 64), (1, 64, 3, 49, 32)]  # DeiT-S, Swin-T


class Case(NamedTuple):
    """A kernel by name with its arguments on the CPU; closeness of float results to the largest, 0 for equality."""

    kernel: str
    form: str
    arguments: tuple[Any, ...]
    tolerance: float = 0.0


def kernels(report: Report) -> None:
    """One row a kernel and form, and one for operators that none of them called."""
    report.place.needs_kernels()
    from intvit.quant.triton_kernels.operators import LAUNCHERS

    called = _Called()
    for case in cases(report.place.gpu):
        expected = results(getattr(EAGER, case.kernel)(*(_as_float32(a) for a in case.arguments)))
        device = report.place.device
        with called:
            found = results(getattr(accelerator(), case.kernel)(*(_moved(a, device) for a in case.arguments)))
        wrong = differing(found, expected) if not case.tolerance else _far(found, expected, case.tolerance)
        report.equality(f"{case.kernel} {case.form}", wrong)
    report.equality("every operator is called", sorted(set(LAUNCHERS) - called.names))


class _Called(TorchDispatchMode):
    """The names of this package's operators that were called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "intvit":
            self.names.add(func._schema.name.removeprefix("intvit::"))
        return func(*args, **(kwargs or {}))


def cases(full: bool) -> Iterator[Case]:
    """full: at the sizes of real layers, too, and with gradients in bfloat16, whose products a CPU lacks."""
    shapes, dtypes = (FULL_SHAPES, (torch.float32, torch.bfloat16)) if full else (SHAPES, (torch.float32,))
    for rows, inner, columns in [(17, 48, 5), (130, 200, 33), *([(394, 384, 1152), (394, 1536, 384)] if full else [])]:
        operands = draw(1, 8, rows, inner), draw(2, 8, columns, inner), integers(3, -(2**24), 2**24, columns).int()
        yield Case("linear", f"{rows}x{inner}x{columns}", operands)
        for dtype in dtypes:
            gradient, scale = real(4, rows, columns).to(dtype), torch.rand(columns) + 0.5
            arguments = gradient, *operands[:2], scale, torch.tensor(0.03), 8, (True, True, True)
            yield Case("linear_gradient", f"{rows}x{inner}x{columns} {dtype}", arguments, closeness(dtype))
    channels, tokens = (384, 197) if full else (12, 5)
    for bits in (2, 4, 7, 8, 9, 12, 15, 16):
        accumulators = integers(bits, -(2**31) + 1, 2**31 - 1, 2, tokens, channels).int()
        accumulators[1] >>= 9 + bits
        m, e = arithmetic.encode_ratios(ratios(bits, channels, bits).abs(), bits)  # of scales
        for groups in (1, 3):
            yield Case("requantize", f"{bits} bits, {groups} groups", (accumulators, m, e, bits, groups, True))
        small = accumulators >> 2
        pair = arithmetic.encode_pair(ratios(bits, channels, bits), ratios(bits + 50, channels, bits) + 2.0**-9, bits)
        stream = draw(bits, 8 if bits % 2 else 16, 2, tokens, channels)
        yield Case("add", f"{bits} bits", (small, stream, *pair, bits, True))
    yield from layernorm_cases(channels, tokens, dtypes)
    yield from pointwise_cases(channels, tokens, dtypes)
    for shape in shapes:
        for number, bits in enumerate((8, 16, 4)):
            yield from attention_cases(shape, bits, number % 2 == 1, dtypes)


def layernorm_cases(channels: int, tokens: int, dtypes: tuple[torch.dtype, ...]) -> Iterator[Case]:
    """Constant rows, rows of one value against all others, gamma with zeros and tiny ones, far beta."""
    gamma, beta = torch.randn(2, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gamma[::4], gamma[1::7], beta[::3], beta[-1] = 0.0, 1e-12, 0.0, 1e15
    for bits, shifted in ((8, True), (16, False)):
        x = draw(bits, bits, 2, tokens, channels)
        x[0, 0], x[1, 1], x[1, 1, 0], x[1, -1] = 7, -3, 5, x[1, -1] >> 6
        shift = integers(6, 0, 3, channels) if shifted else None
        for method, paper in (("exact", False), ("ivit", False), ("ivit", True), ("ibert", False)):
            for out in (8, 16):
                parameters = arithmetic.derive_layernorm(
                    method, gamma, beta, 2.5 / 2 ** (out - 1), bits, out, channel_shift=shift, paper=paper
                )
                form = f"{method}{' paper' if paper else ''}, {bits} to {out} bits"
                yield Case("layernorm", form, (x, parameters, True))
        for dtype in dtypes:
            scale, weight = torch.tensor(0.03, dtype=torch.float64), torch.rand(channels) + 0.5
            arguments = real(7, 2, tokens, channels).to(dtype), draw(8, bits, 2, tokens, channels), shift
            form = f"{bits} bits {dtype}"
            yield Case("layernorm_gradient", form, (*arguments, scale, weight, 1e-6, bits), closeness(dtype))


def pointwise_cases(channels: int, tokens: int, dtypes: tuple[torch.dtype, ...]) -> Iterator[Case]:
    for bits in (2, 8, 16):
        codes = draw(bits, bits, 2, tokens, channels)
        yield Case("mask", f"{bits} bits", (real(9, *codes.shape), codes, bits))
        if bits == 16:
            continue
        for family in ("lut", "ivit"):  # of x; of x and the row's maximum
            gelu = arithmetic.GELU_FAMILIES[family](8.0 / 2**bits, 0.05, bits, 8, **preset_options("gelu", family))
            yield Case("gelu", f"{family}, {bits} bits", (codes, arithmetic.gelu_table(gelu, bits), True))
        for dtype in dtypes:
            arguments = real(10, *codes.shape).to(dtype), codes, torch.randn(2**bits)
            # plain torch leaves the mask at the layer's input to its reader
            inside = codes.clamp(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 2) if bits > 2 else torch.zeros_like(codes)
            yield Case("gelu_gradient", f"{bits} bits {dtype}", (arguments[0], inside, arguments[2]), closeness(dtype))


def attention_cases(shape: tuple[int, ...], bits: int, biased: bool, dtypes: tuple[torch.dtype, ...]) -> Iterator[Case]:
    """Logits of `bits` bits; biased: with a position bias, and exclusions."""
    images, windows, heads, tokens, size = shape
    form = f"{'x'.join(map(str, shape))}, {bits} bits{' biased' if biased else ''}"
    qkv = draw(tokens, 8, images, windows * tokens, 3 * heads * size)
    square = images, windows, heads, tokens, tokens
    excluded = _exclusions(windows, tokens) if biased else None
    ratio = torch.tensor([2.0 ** (bits - 20)], dtype=torch.float64)
    if biased:
        bias = integers(11, -(2**15) + 1, 2**15 - 1, heads, tokens, tokens).short()
        pair = Addition(*arithmetic.encode_pair(ratio, torch.tensor([2.0 ** (bits - 17)]).double(), bits))
        yield Case("logits", form, (qkv, heads, windows, pair, bias, bits, excluded, True))
    else:
        scaling = Requantization(*arithmetic.encode_ratios(ratio, bits))
        yield Case("logits", form, (qkv, heads, windows, scaling, None, bits, None, True))
    logits = draw(12, bits, *square)
    exponent = arithmetic.SOFTMAX_FAMILIES["ivit"](12.0 / 2**bits, tokens, bits, **preset_options("softmax", "ivit"))
    exponentials = arithmetic.exponent_table(exponent, bits)
    table = arithmetic.weight_table(exponentials, *arithmetic.derive_weights(exponentials, 8, tokens), 8)
    m, e = arithmetic.derive_mean(torch.tensor(0.7, dtype=torch.float64), 8)
    largest = arithmetic.largest_weight(8, tokens)
    yield Case("deferred", form, (logits, table, excluded, qkv, m, e, 8, largest, True))
    m, e = arithmetic.encode_ratios(torch.tensor([1.3 * 2.0**-8], dtype=torch.float64), 8)
    for normalization in ("rounded", "floor"):
        arguments = logits, exponentials, excluded, qkv, m, e, 8, 8, normalization, True
        yield Case("normalized", f"{form}, {normalization}", arguments)
    weights, sums, _, _ = EAGER.deferred(logits, table, excluded, qkv, m, e, 8, largest)
    scales = torch.tensor([0.3, 0.02, 1.0], dtype=torch.float64)
    for dtype in dtypes:
        operands = AttentionOperands(
            qkv=qkv,
            logits=logits,
            weights=weights,
            sums=sums,
            step=0.0,
            scale=torch.tensor(0.05, dtype=torch.float64),
            gradient_scales=scales,
            logit_scale=torch.tensor(12.0 / 2**bits, dtype=torch.float64),
            bits=8,
            logit_bits=bits,
            excluded=excluded,
        )
        gradient = real(13, images, windows * tokens, heads * size).to(dtype)
        yield Case("attention_gradient", f"{form} {dtype}", (gradient, operands, biased), closeness(dtype))


def _exclusions(windows: int, tokens: int) -> Tensor:
    """bool (W, 1, N, N); every row keeps the token itself."""
    excluded = integers(14, 0, 1, windows, 1, tokens, tokens) == 1
    excluded[..., torch.arange(tokens), torch.arange(tokens)] = False
    return excluded


# ---------------------------------------------------------------- values


def integers(seed: int, low: int, high: int, *shape: int) -> Tensor:
    """int64 of low..high, a third of them at either end."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high + 1, shape, generator=generator)
    ends = torch.randint(0, 6, shape, generator=generator)
    return values.masked_fill(ends == 0, low).masked_fill(ends == 1, high)


def draw(seed: int, bits: int, *shape: int) -> Tensor:
    """Codes of `bits` bits."""
    return integers(seed, *arithmetic.limits(bits), *shape).to(arithmetic.container(bits))


def real(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ratios(seed: int, channels: int, bits: int) -> Tensor:
    """From zero over ones whose shift is capped to ones that saturate everything, of either sign."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-60, 20, (channels,), generator=generator)
    ratio = (torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5) * 2.0**exponents
    ratio[::5], ratio[1::7] = 2.0 ** (bits - 1) / 2.0**31, 0.0
    return torch.where(integers(seed, 0, 1, channels) == 0, ratio, -ratio)


def closeness(dtype: torch.dtype) -> float:
    """Of sums of a few hundred products, relative to the largest entry."""
    return 1e-4 if dtype is torch.float32 else 5e-2


# ---------------------------------------------------------------- comparison


def results(output: Any) -> dict[str, Tensor]:
    """The tensors of a kernel's output by their place."""
    outputs = output if isinstance(output, tuple) else (output,)
    return {f"output {i}": tensor for i, tensor in enumerate(outputs) if tensor is not None}


def _far(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> list[str]:
    wrong = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        a, b = found[name].double().cpu(), expected[name].double()
        distance = float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
        if not distance <= tolerance:
            wrong.append(f"{name} by {distance:.2g} of the largest")
    return wrong


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors, and those in the records that kernels take, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: _moved(getattr(value, name), device) for name in names})
    return value


def _as_float32(value: Any) -> Any:
    """A gradient in bfloat16 as plain torch on a CPU takes it."""
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.bfloat16 else value
