"""A whole program as an ONNX model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from onnx import ModelProto, ValueInfoProto, helper

from intvit import __version__
from intvit.errors import IntVitError
from intvit.files import replacing
from intvit.program import Program, bounds, container
from intvit.runtime.onnx import int32_form, operators
from intvit.runtime.onnx.builder import DOMAIN, IR_VERSION, OLDEST_OPSET, OPSET, TYPES, Graph
from intvit.runtime.onnx.node_builder import NodeBuilder


@dataclass(frozen=True)
class Form:
    """How the file is written; the integers are the same. Raises IntVitError for numbers that ONNX has not.

    opset: 15 or newer. ir_version: 8 or newer, 4 or newer with inline; None takes 10, or 8 for an opset before 18.
    inline: no local functions, which some engines (OpenVINO, old ones) do not take. int32: no 64-bit integers, which
    OpenVINO narrows without a word; inlined as well, and several times as many nodes.
    """

    opset: int = OPSET
    ir_version: int | None = None
    inline: bool = False
    int32: bool = False

    def __post_init__(self) -> None:
        newest = onnx.defs.onnx_opset_version()
        if not OLDEST_OPSET <= self.opset <= newest:
            raise IntVitError(
                f"opset {self.opset}: expected {OLDEST_OPSET} to {newest}, the newest of onnx {onnx.__version__}"
            )
        if self.int32 and (not self.inline or self.opset < OPSET):
            raise IntVitError(f"--int32 has no local functions and bitwise operators: say --inline, and opset {OPSET}")
        oldest = 4 if self.inline else 8
        if self.ir_version is not None and not oldest <= self.ir_version <= onnx.IR_VERSION:
            way = "" if self.inline else "; without local functions (--inline) 4 and up"
            raise IntVitError(f"IR version {self.ir_version}: expected {oldest} to {onnx.IR_VERSION}{way}")

    @property
    def written_ir_version(self) -> int:
        """Of the file."""
        return self.ir_version or (IR_VERSION if self.opset >= OPSET else 8)


def to_onnx(
    program: Program, *, batch: int | None = None, every_value: bool = False, form: Form | None = None
) -> ModelProto:
    """The model of a checked program: uint8 images [B, C, H, W] -> int32 scores [B, classes], names as in the program.

    Labels of pixels [B, H, W] are uint8, or uint16 for more than 256 classes.

    batch: None leaves B open. every_value: the outputs are those of all operators instead of the program's alone. The
    ranges that an arithmetic shift needs come from the program's bounds; raises ProgramError as those do.
    """
    form = form or Form()
    graph, proven = Graph(form.opset), bounds(program)
    for operator in program.operators:
        write = (int32_form if form.int32 else operators).OPERATORS[operator.op]
        write(NodeBuilder(graph, program, operator, proven[operator.name], batch))
    outputs = [operator.output for operator in program.operators] if every_value else [program.output]
    inner = [operator.output for operator in program.operators if operator.output not in outputs]
    contents = helper.make_graph(
        graph.body.nodes,
        "intvit",
        [_info(program, program.input, batch)],
        [_info(program, name, batch) for name in outputs],
        list(graph.initializers.values()),
        value_info=[_info(program, name, batch) for name in inner],
    )
    model = helper.make_model(
        contents,
        functions=list(graph.functions.values()),
        opset_imports=[helper.make_opsetid("", form.opset), helper.make_opsetid(DOMAIN, 1)],
        ir_version=form.written_ir_version,
        producer_name="intvit",
        producer_version=__version__,
    )
    helper.set_model_props(model, metadata(program))
    return onnx.inliner.inline_local_functions(model) if form.inline else model


def save_onnx(
    program: Program, path: str | os.PathLike[str], *, batch: int | None = None, form: Form | None = None
) -> None:
    """Writes the model of the program after ONNX's own checker, shape inference included, has passed it.

    Raises IntVitError for a path that does not end in .onnx, lest it replaces a file of the checkpoint.
    """
    path = Path(path)
    if path.suffix != ".onnx" or path.is_dir():
        raise IntVitError(f"{path}: not the name of an ONNX file; give one that ends in .onnx")
    model = to_onnx(program, batch=batch, form=form)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        onnx.save_model(model, temporary)


def _info(program: Program, name: str, batch: int | None) -> ValueInfoProto:
    value = program.values[name]
    kind = TYPES[container(value.bits, value.signed)]
    return helper.make_tensor_value_info(name, kind, ["batch" if batch is None else batch, *value.shape])


def metadata(program: Program) -> dict[str, str]:
    """For people: what goes in and what the integers mean, as JSON."""
    _, height, width = program.values[program.input].shape
    image = {"channels": "RGB", "height": height, "width": width, "values": "uint8 as decoded, not normalized"}
    scales = {name: value.scale for name, value in program.values.items() if value.scale is not None}
    entries = {
        "input": image,
        "classes": program.classes,
        "score_scale": program.score_scale,
        "scales": scales,
        "provenance": program.provenance,
    }
    return {f"intvit.{key}": json.dumps(value) for key, value in entries.items()}
