"""Derivations: all integer parameters of a model from its real scales and weights, in a few batched operations.

A model runs on symbols. Every layer asks for what it will need, with `Derivations.derive`, and gets a `Derived`, which
may be an argument of what other layers ask for. Nothing is computed until `resolve`: then what one function derives is
derived for all sites at once, by the definition of `intvit.arithmetic` on every device: channels of all sites one after
the other (`rows`), or sites of equal shapes stacked. Nothing is read on the host: whether all scales were in their
proven ranges is the device flag `valid`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from intvit.arithmetic import batched, deferred_checks
from intvit.errors import IntVitError
from intvit.quant.config import HardwareConfig
from intvit.quant.tensor import Derived, Integers, Symbol

_LOOPED = 1 << 15  # elements of one site: a CPU keeps them in its cache, and stacked ones not


@dataclass(eq=False)
class Request:
    """function(*arguments, **options) for one site."""

    function: Callable[..., Any]
    arguments: tuple[Tensor | Derived | None, ...]
    options: dict[str, Any]
    site: str
    rows: int | None = None
    result: Derived = field(default_factory=Derived)

    @property
    def ready(self) -> bool:
        return all(not isinstance(argument, Derived) or argument.ready for argument in self.arguments)

    def values(self) -> tuple[Tensor | None, ...]:
        """The arguments, now that they are known."""
        return tuple(argument.value if isinstance(argument, Derived) else argument for argument in self.arguments)

    def key(self) -> Any:
        """Equal for requests that can be derived together."""
        first = 0 if self.rows is None else 1
        shapes = tuple(None if value is None else (value.shape[first:], value.dtype) for value in self.values())
        return self.function, self.rows is None, tuple(sorted(self.options.items())), shapes

    def compute(self) -> Any:
        """The result of this site alone."""
        values = self.values()
        if self.rows is not None:
            values = tuple(None if value is None else _joined(_pieces(value, self.rows)) for value in values)
        return self.function(*values, **self.options)

    @property
    def batchable(self) -> bool:
        """Whether sites are stacked: not a user's function, nor weights that fill a CPU's cache."""
        tensors = [value for value in self.values() if value is not None]
        large = any(value.device.type == "cpu" and value.numel() > _LOOPED for value in tensors)
        return not large and bool(getattr(self.options.get("family"), "batchable", True))


class Derivations:
    """One pass over a model: a `Builder` that keeps what layers ask for, and emits nothing.

    hardware: of the model, to which results that hold multipliers are fitted; None of a layer alone.
    """

    def __init__(self) -> None:
        self.hardware: HardwareConfig | None = None
        self.requests: list[Request] = []
        self.valid: Tensor | None = None  # 0-d bool, after `resolve`

    def derive(
        self,
        function: Callable[..., Any],
        *arguments: Tensor | Derived | None,
        site: str,
        rows: int | None = None,
        **options: Any,
    ) -> Derived:
        """Ask for function(*arguments, **options): a tensor, or a frozen dataclass with tensors in its fields.

        options: hashable. site: name of the layer, for errors. rows: the function treats every row of its arguments by
        itself, and there are so many here; an argument of no axis is the same for all of them, one of G entries for the
        rows of each of G equal parts.
        """
        request = Request(function, arguments, options, site, rows)
        self.requests.append(request)
        return request.result

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
        """The symbol of an operator's output."""
        return Symbol(name, shape, bits, signed, scale, factors, self)

    @torch.no_grad()
    def resolve(self) -> None:
        """Compute all results.

        Raises IntVitError naming the site of a scale that is out of its range; on an accelerator only `valid` says so,
        and `explain` which.
        """
        waiting = self.requests
        with deferred_checks() as checks:
            while waiting:
                ready = [request for request in waiting if request.ready]
                later = [request for request in waiting if not request.ready]
                assert ready, "what is asked for depends on another pass"
                # What will have to wait for others of its kind waits for them, so that they are derived together.
                kinds = {(request.function, request.options.get("bits")) for request in later}
                alone = [r for r in ready if (r.function, r.options.get("bits")) not in kinds]
                groups: dict[Any, list[Request]] = {}
                for request in alone or ready:
                    groups.setdefault(request.key(), []).append(request)
                for group in groups.values():
                    _derive(group)
                    self._fit(group)
                done = set(map(id, alone or ready))
                waiting = [request for request in waiting if id(request) not in done]
        self.valid = checks.valid()
        if self.valid.device.type == "cpu" and not self.valid:
            self.explain()

    def _fit(self, group: list[Request]) -> None:
        """Shorten the multipliers of results that hold some, site by site, as a tensor has one shift."""
        if self.hardware is None or self.hardware.free:
            return
        for request in group:
            fit = getattr(request.result.value, "fitted", None)
            if fit is not None:
                request.result.value = fit(self.hardware)

    @torch.no_grad()
    def explain(self) -> None:
        """Derive site by site, and raise the first error."""
        for request in self.requests:
            try:
                request.result.value = request.compute()
                self._fit([request])
            except IntVitError as error:
                raise IntVitError(f"{request.site}: {error}") from error


@contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Hooks of users are for values: inside, those on forward passes are set aside."""
    kept = [(m, m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    for module, _, _ in kept:
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, hooks, pre_hooks in kept:
            module._forward_hooks, module._forward_pre_hooks = hooks, pre_hooks


def _derive(group: list[Request]) -> None:
    """Set the results of requests of one key."""
    first = group[0]
    if len(group) == 1 or not first.batchable:
        for request in group:
            request.result.value = request.compute()
    elif first.rows is not None:
        _derive_rows(group)
    else:
        _derive_stacked(group)


def _derive_rows(group: list[Request]) -> None:
    rows = [request.rows or 0 for request in group]
    arguments: list[Tensor | None] = []
    for column in zip(*(request.values() for request in group), strict=True):
        pieces = [_pieces(value, count) for value, count in zip(column, rows, strict=True) if value is not None]
        arguments.append(torch.cat([piece for several in pieces for piece in several]) if pieces else None)
    result = group[0].function(*arguments, **group[0].options)
    start = 0
    for request, count in zip(group, rows, strict=True):
        request.result.value = _taken(result, slice(start, start + count))
        start += count


def _pieces(value: Tensor, rows: int) -> list[Tensor]:
    """Views whose rows, one after the other, are `value` for so many rows."""
    if not value.dim():
        return [value.expand(rows)]
    return [value] if len(value) == rows else [part.expand(rows // len(value)) for part in value.unbind()]


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _derive_stacked(group: list[Request]) -> None:
    first, columns = group[0], list(zip(*(request.values() for request in group), strict=True))
    given = [i for i, column in enumerate(columns) if column[0] is not None]

    def of_site(*tensors: Tensor) -> Any:
        arguments: list[Tensor | None] = [None] * len(columns)
        for i, tensor in zip(given, tensors, strict=True):
            arguments[i] = tensor
        return first.function(*arguments, **first.options)

    result = batched(of_site, *(torch.stack([v for v in columns[i] if v is not None]) for i in given))
    for index, request in enumerate(group):
        request.result.value = _taken(result, index)


def _taken(result: Any, which: int | slice) -> Any:
    """Entries of the first axis of every tensor of nested dataclasses."""
    if isinstance(result, Tensor):
        return result[which]
    if is_dataclass(result) and not isinstance(result, type):
        return replace(result, **{f.name: _taken(getattr(result, f.name), which) for f in fields(result)})
    return result
