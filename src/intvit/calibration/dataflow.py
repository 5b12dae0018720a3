"""Which layer reads what, of any model of this package: found by one pass on symbols, without numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from intvit.models.base import ImageModel
from intvit.quant.control import quant_layers
from intvit.quant.derivation import Derivations, without_hooks
from intvit.quant.layer import Layer
from intvit.quant.quantizer import Quantizer
from intvit.quant.tensor import Integers, Symbol

_MOVES = {"reshape", "slice", "concat", "gather", "transpose", "patches"}


@dataclass(frozen=True)
class Reader:
    """A layer and what lies between it and a value: whether zeros join as padding, and how many tokens' channels it
    reads as one's; columns: which of its inputs the value's channels are, where others stand beside them.
    """

    layer: Layer
    padded: bool = False
    joined: int = 1
    columns: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Move:
    output: str
    padded: bool
    joined: int
    columns: tuple[int, int] | None


class Dataflow:
    """The layers of a model in the order of its forward pass.

    layers: Quantizers are part of the layer that owns them. inputs, outputs: names of values.
    """

    def __init__(self, model: ImageModel) -> None:
        builder = _Names()
        calls: list[tuple[Layer, list[str], str]] = []

        def called(layer: Any, arguments: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Symbol):
                calls.append((layer, [x.name for x in arguments if isinstance(x, Symbol)], output.name))

        image = Symbol("image", (model.channels, *model.image_size), 8, False, None, None, builder)
        with without_hooks(model), torch.no_grad():
            hooks = [each.register_forward_hook(called) for each in quant_layers(model) if _counts(each)]
            try:
                model(image)
            finally:
                for hook in hooks:
                    hook.remove()
        self.layers = [layer for layer, _, _ in calls]
        self.inputs = {layer: inputs for layer, inputs, _ in calls}
        self.outputs = {layer: output for layer, _, output in calls}
        self._moves = builder.moves
        self._readers: dict[str, list[Layer]] = {}
        for layer, inputs, _ in calls:
            for name in inputs:
                self._readers.setdefault(name, []).append(layer)

    def readers(self, layer: Layer) -> list[Reader]:
        """Who reads the output of a layer, as it is or moved about."""
        return list(self._read(self.outputs[layer], False, 1, None))

    def _read(self, value: str, padded: bool, joined: int, columns: tuple[int, int] | None) -> Iterator[Reader]:
        for layer in self._readers.get(value, ()):
            yield Reader(layer, padded, joined, columns)
        for move in self._moves.get(value, ()):
            form = padded or move.padded, joined * move.joined, move.columns or columns
            yield from self._read(move.output, *form)

    def writer(self, layer: Layer, index: int = 0) -> Layer | None:
        """The layer whose output is an input of another as it is; None where it is moved about, or the image."""
        name = self.inputs[layer][index]
        return next((each for each, output in self.outputs.items() if output == name), None)


def _counts(layer: Layer) -> bool:
    return not isinstance(layer, Quantizer)


class _Names(Derivations):
    """Keeps which value is another one moved about; what layers ask for is never computed."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: dict[str, list[_Move]] = {}

    def emit(
        self, op: str, name: str, inputs: list[Symbol], *, integers: Callable[[], Integers] = Integers, **form: Any
    ) -> Symbol:
        output = super().emit(op, name, inputs, **form)
        if op in _MOVES:
            padded = op == "gather" and bool((integers().constants["index"][0] < 0).any())
            begin = 0
            for x in inputs:
                beside = op == "concat" and output.shape[-1] > x.shape[-1]
                columns = (begin, begin + x.shape[-1]) if beside else None
                begin += x.shape[-1]
                joined = output.shape[-1] // x.shape[-1] if op == "reshape" and len(output.shape) == len(x.shape) else 1
                self.moves.setdefault(x.name, []).append(_Move(output.name, padded, max(joined, 1), columns))
        return output
