"""The integer program: its data, its checks and proofs, its checkpoint on disk. Needs numpy and safetensors, no torch.

Recording a program from a model needs torch: intvit.export.record.
"""

from intvit.program.bounds import OperatorBounds, bounds
from intvit.program.check import check
from intvit.program.checkpoint import load_checkpoint, save_checkpoint
from intvit.program.operators import infer_output
from intvit.program.program import Constant, Operator, Program, ProgramError, Value, container, limits

__all__ = [
    "Constant",
    "Operator",
    "OperatorBounds",
    "Program",
    "ProgramError",
    "Value",
    "bounds",
    "check",
    "container",
    "infer_output",
    "limits",
    "load_checkpoint",
    "save_checkpoint",
]
