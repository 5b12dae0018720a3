"""The three kinds of value that flow through a model, and the data movement that all of them know.

float mode        torch.Tensor, real values
integer mode      QTensor: integer payload, real scale, gradient handle
recording         Symbol: name, shape and widths of a value of the integer program, no data

A model's forward is written once; what it is given decides what it does. Axes here never count the batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from intvit.arithmetic import to_fields
from intvit.arithmetic.elementary import power_of_two


class Derived:
    """What a pass of `intvit.quant.derivation` will compute: a tensor, or a record of tensors."""

    def __init__(self) -> None:
        self._value: Any = None

    @property
    def ready(self) -> bool:
        """Whether it is computed."""
        return self._value is not None

    @property
    def value(self) -> Any:
        """The result."""
        assert self._value is not None, "asked for, but not derived yet"
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def field(self, name: str) -> Derived:
        """A field of the record."""
        return PartOf(self, operator.attrgetter(name))

    def part(self, index: int) -> Derived:
        """An entry of the tensor."""
        return PartOf(self, operator.itemgetter(index))


class PartOf(Derived):
    """What is taken out of another result."""

    def __init__(self, whole: Derived, take: Callable[[Any], Any]) -> None:
        self._whole, self._take = whole, take

    @property
    def ready(self) -> bool:
        return self._whole.ready

    @property  # type: ignore[misc]  # nobody sets a part
    def value(self) -> Any:
        return self._take(self._whole.value)


Scale = Tensor
"""float64 on the model's device: () per tensor, (groups,) per equal group of the last axis (query, key, value), or (C,)
per channel, of an accumulator."""


def handle(*shape: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tensor of any shape that stores one element: it carries gradients, of its dtype, not values."""
    return torch.empty(1, device=device, dtype=dtype).expand(*shape)


def gradient_dtype(device: torch.device) -> torch.dtype:
    """Of gradients between layers: bfloat16 on an accelerator under autocast to it. Those of streams are float32."""
    kind = device.type
    usable = kind != "cpu" and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.bfloat16 if usable and torch.get_autocast_dtype(kind) is torch.bfloat16 else torch.float32


@dataclass(frozen=True)
class QTensor:
    """Integers with a real scale: value = values * scale * 2^-factors.

    values: int8 (<= 8 bits), int16 or int32, shape (B, ...); no gradient.
    handle: float32 of the same shape without storage; carries the gradient with respect to the real value.
    bits: declared width; 32 marks an accumulator, which may also be held in float32 as exact integers.
    factors: int64 (C,) in 0..3, power-of-two factor per channel of an 8-bit residual stream, or None.
    """

    values: Tensor
    handle: Tensor
    scale: Scale
    bits: int
    factors: Tensor | None = None

    def real(self) -> Tensor:
        """The values that the integers stand for, float32."""
        scale = self.scale
        if scale.dim():  # of groups, or of channels already
            scale = scale.repeat_interleave(self.values.shape[-1] // len(scale))
        if self.factors is not None:
            scale = scale / power_of_two(self.factors)
        return (self.values.double() * scale).float()

    def differentiable(self) -> Tensor:
        """`real` with the gradient that the handle carries."""
        return Real.apply(self.handle, self)

    def _move(self, function: Any) -> QTensor:
        return replace(self, values=function(self.values), handle=function(self.handle))


@dataclass(frozen=True)
class Integers:
    """What an operator holds: attributes, and constants as role -> (integers, bits, signed)."""

    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, tuple[Tensor, int, bool]] = field(default_factory=dict)


class Builder(Protocol):
    """Takes the operators of a model that runs on symbols: `intvit.export.record`, `intvit.quant.derivation`."""

    def derive(
        self,
        function: Callable[..., Any],
        *arguments: Tensor | Derived | None,
        site: str,
        rows: int | None = None,
        **options: Any,
    ) -> Derived:
        """See `Derivations.derive`."""

    def emit(
        self,
        op: str,
        name: str,
        inputs: list[Symbol],
        *,
        shape: tuple[int, ...],
        bits: int,
        signed: bool = True,
        scale: Tensor | Derived | None = None,
        factors: Tensor | None = None,
        integers: Callable[[], Integers] = Integers,
    ) -> Symbol:
        """An operator and its output; `integers` is called once everything is derived."""


@dataclass(frozen=True)
class Symbol:
    """A value of the program being recorded; shape without the batch axis."""

    name: str
    shape: tuple[int, ...]
    bits: int
    signed: bool
    scale: Tensor | Derived | None
    factors: Tensor | None
    builder: Builder
    per_channel: bool = False  # the scale is one of each channel, as of a linear layer's accumulators

    def move(self, op: str, name: str, shape: tuple[int, ...], /, **attributes: Any) -> Symbol:
        """Emit a data-movement operator: same integers, same scale, new shape."""
        return self.builder.emit(
            op,
            name,
            [self],
            shape=shape,
            bits=self.bits,
            signed=self.signed,
            scale=self.scale,
            factors=self.factors,
            integers=lambda: Integers(attributes),
        )

    def reshape(self, name: str, *shape: int) -> Symbol:
        """Emit `reshape`."""
        return self.move("reshape", name, shape, shape=list(shape))


AnyTensor = Tensor | QTensor | Symbol


def narrow(x: AnyTensor, axis: int, start: int, stop: int, name: str) -> AnyTensor:
    """Entries start <= i < stop of one axis, not the channels'."""
    if isinstance(x, Tensor):
        return x.narrow(axis + 1, start, stop - start)
    if isinstance(x, QTensor):
        return x._move(lambda tensor: tensor.narrow(axis + 1, start, stop - start))
    return x.move("slice", name, _with(x.shape, axis, stop - start), axis=axis, start=start, stop=stop)


def select(x: AnyTensor, axis: int, index: int, name: str) -> AnyTensor:
    """The slice `index` of one axis, axis dropped."""
    if isinstance(x, Tensor):
        return x.select(axis + 1, index)
    if isinstance(x, QTensor):
        return x._move(lambda tensor: tensor.select(axis + 1, index))
    kept = narrow(x, axis, index, index + 1, f"{name}.slice")
    assert isinstance(kept, Symbol)
    return kept.reshape(name, *x.shape[:axis], *x.shape[axis + 1 :])


def concat(parts: list[AnyTensor], axis: int, name: str) -> AnyTensor:
    """Join along one axis values of equal scale and width."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)], axis + 1)
    if isinstance(first, QTensor):
        codes = [part for part in parts if isinstance(part, QTensor)]
        return replace(
            first,
            values=torch.cat([part.values for part in codes], axis + 1),
            handle=Concat.apply(axis + 1, *[part.handle for part in codes]),
        )
    symbols = [part for part in parts if isinstance(part, Symbol)]
    return first.builder.emit(
        "concat",
        name,
        symbols,
        shape=_with(first.shape, axis, sum(part.shape[axis] for part in symbols)),
        bits=first.bits,
        signed=first.signed,
        scale=first.scale,
        factors=first.factors,
        integers=lambda: Integers({"axis": axis}),
    )


def reshape(x: AnyTensor, name: str, *shape: int) -> AnyTensor:
    """The same entries in row-major order; channels may be joined (their factors repeat), not split."""
    if isinstance(x, Tensor):
        return x.reshape(x.shape[0], *shape)
    channels = x.shape[-1] if isinstance(x, Symbol) else x.values.shape[-1]
    assert x.factors is None or shape[-1] % channels == 0, "channels with factors can't be split"
    factors = None if x.factors is None else x.factors.repeat(shape[-1] // channels)
    if isinstance(x, QTensor):
        return replace(x._move(lambda tensor: tensor.reshape(tensor.shape[0], *shape)), factors=factors)
    return replace(x.reshape(name, *shape), factors=factors)


def gather(x: AnyTensor, axis: int, index: Tensor, name: str) -> AnyTensor:
    """Entries of one axis, not the channels', in the order of `index` (int64, 1-d); -1 gives zeros."""
    if isinstance(x, Tensor):
        return take(x, axis + 1, index)
    if isinstance(x, QTensor):
        return replace(x, values=take(x.values, axis + 1, index), handle=Gather.apply(x.handle, axis + 1, index))
    return x.builder.emit(
        "gather",
        name,
        [x],
        shape=_with(x.shape, axis, index.numel()),
        bits=x.bits,
        signed=x.signed,
        scale=x.scale,
        factors=x.factors,
        integers=lambda: Integers({"axis": axis}, {"index": (index, 32, True)}),
    )


def take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """`gather` of a plain tensor; `axis` counts the batch."""
    taken = x.index_select(axis, index.clamp(min=0))
    return taken.masked_fill((index < 0).view(-1, *[1] * (x.dim() - axis - 1)), 0)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


class Real(torch.autograd.Function):
    """Real values of a QTensor in place of its handle; identity gradient."""

    @staticmethod
    def forward(ctx: Any, values_handle: Tensor, x: QTensor) -> Tensor:
        return x.real()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Concat(torch.autograd.Function):
    """Gradient of concatenation for handles, without writing the storage that handles do not have."""

    @staticmethod
    def forward(ctx: Any, axis: int, *handles: Tensor) -> Tensor:
        ctx.axis, ctx.sizes = axis, [h.shape[axis] for h in handles]
        shape = list(handles[0].shape)
        shape[axis] = sum(ctx.sizes)
        return handle(*shape, device=handles[0].device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradient.split(ctx.sizes, ctx.axis)


class Gather(torch.autograd.Function):
    """Gradient of `gather` for handles: every entry gets back what its copies received."""

    @staticmethod
    def forward(ctx: Any, x_handle: Tensor, axis: int, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.axis, ctx.shape = axis, x_handle.shape
        return handle(*_with(tuple(x_handle.shape), axis, index.numel()), device=x_handle.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        size = ctx.shape[ctx.axis]
        # One entry more takes what belongs to no input: which ones these are is not known on the host.
        result = gradient.new_zeros(_with(ctx.shape, ctx.axis, size + 1))
        result.index_add_(ctx.axis, torch.where(index < 0, size, index), gradient)
        return result.narrow(ctx.axis, 0, size), None, None


def multiply_shift(shift: Tensor, **multipliers: Tensor) -> dict[str, tuple[Tensor, int, bool]]:
    """Constants of `requantize` and `add`: every multiplier, and the shift."""
    constants = {role: (multiplier.view(-1), 32, True) for role, multiplier in multipliers.items()}
    return {**constants, "shift": (shift.view(-1), 8, True)}


def fields_for_emit(parameters: Any) -> Integers:
    """Attributes and constants of a parameter dataclass, each constant with the smallest signed width that holds it."""
    attributes, tensors = to_fields(parameters)
    return Integers(attributes, {role: (tensor, _width(tensor), True) for role, tensor in tensors.items()})


def _width(tensor: Tensor) -> int:
    low, high = int(tensor.min()), int(tensor.max())
    return next(bits for bits in (8, 16, 32, 64) if -(1 << (bits - 1)) <= low and high < 1 << (bits - 1))
