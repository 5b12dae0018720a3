"""The integer program as an ONNX model: standard operators only, integers only, one local function for each operator.

Needs the packages of `intvit[onnx]`. `runtime` runs it with onnxruntime.
"""

from importlib.util import find_spec

from intvit.errors import IntVitError

if find_spec("onnx") is None:
    raise IntVitError("the package onnx is not installed: pip install 'intvit[onnx]'")

from intvit.runtime.onnx.model import save_onnx, to_onnx

__all__ = ["save_onnx", "to_onnx"]
