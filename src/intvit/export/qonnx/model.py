"""A whole program as a QONNX model."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import ModelProto, helper

from intvit import __version__
from intvit.errors import IntVitError
from intvit.export.qonnx.graph import CUSTOM, GENERAL, Graph, NodeWriter
from intvit.export.qonnx.operators import OPERATORS
from intvit.export.qonnx.report import Placement
from intvit.files import replacing
from intvit.program import Program, bounds
from intvit.runtime.onnx.model import metadata

OPSET, IR_VERSION = 11, 8  # qonnx's and FINN's opset, and a version that onnx of their age reads


def to_qonnx(program: Program) -> tuple[ModelProto, list[Placement]]:
    """The model of a checked program, for one image, and by operator which nodes stand for it.

    Input: the pixels as float32 [1, C, H, W], annotated UINT8. Output: the scores as int32 [1, classes] where they are
    wider than 24 bits, else as float32; dense scores and labels likewise. Values have the program's names and integers.

    Raises IntVitError for an operator that has no form here, ProgramError where an intermediate may overflow.
    """
    for operator in program.operators:
        if operator.op not in OPERATORS:
            raise IntVitError(f"{operator}: the QONNX export has no node for it; it has {', '.join(OPERATORS)}")
    graph, proven = Graph(program), bounds(program)
    for operator in program.operators:
        OPERATORS[operator.op](NodeWriter(graph, program, operator, proven[operator.name]))
    infos = dict(graph.infos)
    image, output = infos.pop(program.input), infos.pop(program.output)
    contents = helper.make_graph(
        graph.nodes, "intvit", [image], [output], list(graph.initializers.values()), value_info=list(infos.values())
    )
    contents.quantization_annotation.extend(graph.annotations())
    opsets = [helper.make_opsetid(*opset) for opset in (("", OPSET), (GENERAL, 1), (CUSTOM, 1))]
    model = helper.make_model(
        contents, opset_imports=opsets, ir_version=IR_VERSION, producer_name="intvit", producer_version=__version__
    )
    helper.set_model_props(model, metadata(program))
    return model, graph.placements


def save_qonnx(program: Program, path: str | os.PathLike[str]) -> list[Placement]:
    """Writes the model after ONNX's checker has passed it; returns by operator what stands for it.

    Raises IntVitError for a path that does not end in .onnx or exists, and as `to_qonnx` does; then nothing is written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise IntVitError(f"{path}: not the name of an ONNX file; give one that ends in .onnx")
    if path.exists():
        raise IntVitError(f"{path} exists; give a new name, nothing was written")
    model, placements = to_qonnx(program)
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save_model(model, temporary)
    return placements
