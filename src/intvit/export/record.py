"""Recording: run the model's own dataflow on symbols and collect the operators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intvit import __version__
from intvit.arguments import described
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.program.bounds import bounds
from intvit.program.check import check
from intvit.program.checkpoint import save_checkpoint
from intvit.program.program import Constant, Operator, Program, Value
from intvit.quant.control import quant_layers
from intvit.quant.derivation import Derivations
from intvit.quant.layers import GELU, AttentionCore, LayerNorm, PoolCore, SoftmaxMean
from intvit.quant.tensor import Derived, Integers, Symbol


class Recorder(Derivations):
    """Builder of a program: every layer emits its operators here while the model runs on symbols."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Constant] = {}
        self.operators: list[Operator] = []
        self._emitted: list[tuple[Symbol, str, list[Symbol], Callable[[], Integers]]] = []

    def emit(
        self, op: str, name: str, inputs: list[Symbol], *, integers: Callable[[], Integers] = Integers, **form: Any
    ) -> Symbol:
        """Append one operator, whose integers are asked for in `resolve`. form: of its output, as there."""
        output = super().emit(op, name, inputs, **form)
        self._emitted.append((output, op, inputs, integers))
        return output

    def resolve(self) -> None:
        """Derive everything, and write the operators down. Raises IntVitError for a scale that is out of its range."""
        super().resolve()
        if not bool(self.valid):
            self.explain()
        for output, op, inputs, integers in self._emitted:
            name, held, roles = output.name, integers(), {}
            for role, (tensor, width, is_signed) in held.constants.items():
                roles[role] = f"{name}.{role}"
                self.constants[roles[role]] = _constant(tensor, width, is_signed)
            self.values[name] = Value(output.shape, output.bits, output.signed, _number(output.scale))
            # what derives an attribute gives a tensor of no axis
            attributes = {key: int(v) if isinstance(v, Tensor) else v for key, v in held.attributes.items()}
            self.operators.append(Operator(op, name, tuple(value.name for value in inputs), name, attributes, roles))


def _number(scale: Tensor | Derived | None) -> float | None:
    """The scale of a value that has one for all its entries; metadata."""
    value = scale.value if isinstance(scale, Derived) else scale
    return float(value) if value is not None and not value.dim() else None


def _constant(tensor: Tensor, bits: int, signed: bool) -> Constant:
    array = tensor.detach().cpu().numpy()
    if array.dtype.kind not in "iu":
        raise TypeError(f"constant of dtype {array.dtype}: a program holds integers only")
    return Constant(array.copy(), bits, signed)


@torch.no_grad()
def record(model: nn.Module, classes: Sequence[str] | None = None, provenance: dict[str, Any] | None = None) -> Program:
    """The integer program of a calibrated model, checked.

    Its provenance gets `functions`: layer -> name of the function whose table it holds, where that is not the table of
    exp or GELU itself. Names are for people: nothing imports them again.

    Raises IntVitError for a model that is not this package's, and naming the layers whose operators are `float`;
    ProgramError for a program that is not well formed.
    """
    ours = _ours(model)
    _refuse_float(ours)
    recorder = Recorder()
    recorder.values["image"] = Value((ours.channels, *ours.image_size), 8, False, None)
    output = ours.derive(recorder)
    program = Program(
        input="image",
        output=output.name,
        values=recorder.values,
        constants=recorder.constants,
        operators=recorder.operators,
        score_scale=float(ours.scores_layer.score_scale),
        classes=_class_names(classes, ours.num_classes),
        provenance={**(provenance or {}), **_functions(model)},
    )
    check(program)
    return program


def _class_names(classes: Any, count: int) -> list[str]:
    """Names of all classes, or none. Raises IntVitError for another number of them and for names that are no texts."""
    if classes is None:
        return []
    if isinstance(classes, str | Mapping) or not isinstance(classes, Iterable):
        raise IntVitError(f"classes are {described(classes)}; expected a list of names in the order of the scores")
    names = list(classes)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise IntVitError(f"classes[{index}] is {described(name)}; expected a text, the name of the class")
    if names and len(names) != count:
        raise IntVitError(f"{len(names)} names of classes for {count} scores; give one each")
    return [str(name) for name in names]  # NumPy's texts, too


def _functions(model: nn.Module) -> dict[str, dict[str, str]]:
    families = {layer.name: layer.family for layer in quant_layers(model) if isinstance(layer, SoftmaxMean | GELU)}
    names = {layer: family.name for layer, family in families.items() if family.function and family.name != "lut"}
    return {"functions": names} if names else {}


def export(
    model: nn.Module,
    folder: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Program:
    """The integer program of a calibrated model, checked and proven; with a folder, written there.

    model: of this package, after `calibrate` or training. folder: where program.json, weights.safetensors, bounds.json
    and a model card, README.md, go, in place of an older checkpoint. classes: names of the classes, in the order of the
    scores. provenance: what the program says of its origin, beside what the model knows of it.

    Raises IntVitError for a model that is not this package's, has no ranges or has float operators, and ProgramError
    (one, too) for a program that may overflow and a folder that holds anything else; nothing is written then.

    >>> model = intvit.create_model("deit_t", image_size=32, num_classes=10, depth=1)
    >>> program = export(intvit.calibrate(model, numpy.zeros((2, 3, 32, 32), "uint8")), classes=list("abcdefghij"))
    >>> program.values[program.output].shape, program.classes[0]
    ((10,), 'a')
    """
    ours = _ours(model)
    if provenance is not None and not isinstance(provenance, Mapping):
        raise IntVitError(f"provenance is {described(provenance)}; expected a mapping of names to values")
    known = {"intvit": __version__, "preset": ours.quant.name, **ours.provenance}
    program = record(ours, classes, {**known, **(provenance or {})})
    if folder is None:
        bounds(program)
    else:
        save_checkpoint(program, folder)
    return program


def _ours(model: nn.Module) -> ImageModel:
    if not isinstance(model, ImageModel):
        raise IntVitError(f"{type(model).__name__} is not a model of intvit; intvit.quantize(model) makes one")
    return model


def _refuse_float(model: nn.Module) -> None:
    kinds = {
        AttentionCore: lambda layer: layer.softmax,
        PoolCore: lambda layer: layer.softmax,
        GELU: lambda layer: layer.config,
    }
    kinds[LayerNorm] = lambda layer: layer.config
    names = [
        layer.name
        for layer in quant_layers(model)
        if type(layer) in kinds and kinds[type(layer)](layer).family == "float"
    ]
    if names:
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise IntVitError(
            f"float operators cannot be exported: {shown}; choose an integer family with quant/softmax, quant/gelu "
            "or quant/layernorm"
        )
