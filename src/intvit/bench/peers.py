"""Other inference runtimes, on the same float model: what `intvit bench runtime` compares the native runtime with.

Each peer is a function that takes the float model, images for calibration and shape, and a number of threads, and gives
a function from normalized images to logits. A peer whose packages are not installed raises ImportError.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[Tensor], np.ndarray]  # float32 [B, 3, H, W] -> float32 logits [B, classes]


def torch_fp32(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Eager, with fused attention."""
    return _of_module(model)


def torch_bf16_compiled(model: nn.Module, images: Tensor, threads: int) -> Run:
    """torch.compile (inductor) in bfloat16."""
    compiled = torch.compile(copy.deepcopy(model).to(torch.bfloat16))
    return _of_module(lambda x: compiled(x.to(torch.bfloat16)).to(torch.float32))


def _of_module(function: Callable[[Tensor], Tensor]) -> Run:
    @torch.inference_mode()
    def run(images: Tensor) -> np.ndarray:
        return function(images).numpy()

    return run


def onnxruntime_fp32(model: nn.Module, images: Tensor, threads: int) -> Run:
    """The CPU provider with all graph optimizations."""
    with tempfile.TemporaryDirectory() as folder:
        return _session(_onnx(model, images, Path(folder)), threads)


def onnxruntime_int8(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Static quantization (QDQ, uint8 activations, int8 weights per channel), calibrated on the images."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches = iter([{"images": images.numpy()}] * 2)

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
        quant_pre_process(str(_onnx(model, images, folder)), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        return _session(quantized, threads)


def _onnx(model: nn.Module, images: Tensor, folder: Path) -> Path:
    import onnxscript  # noqa: F401  (what the exporter needs, so that its absence is an ImportError here)

    path = folder / "model.onnx"
    torch.onnx.export(
        model, (images,), str(path), input_names=["images"], output_names=["logits"], external_data=False, verbose=False
    )
    return path


def _session(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]


def openvino_fp32(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Inference precision f32."""
    return _compiled(_openvino(model, images), threads, "f32")


def openvino_bf16(model: nn.Module, images: Tensor, threads: int) -> Run:
    """Inference precision bf16."""
    return _compiled(_openvino(model, images), threads, "bf16")


def openvino_int8(model: nn.Module, images: Tensor, threads: int) -> Run:
    """NNCF's post-training quantization for transformers, calibrated on the images."""
    import nncf

    dataset = nncf.Dataset([images.numpy()])
    quantized = nncf.quantize(_openvino(model, images), dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=1)
    return _compiled(quantized, threads, "f32")


def _openvino(model: nn.Module, images: Tensor) -> Any:
    import openvino

    return openvino.convert_model(model, example_input=images, input=[tuple(images.shape)])


def _compiled(model: Any, threads: int, precision: str) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda images: compiled(images.numpy())[0]


PEERS: dict[str, Callable[[nn.Module, Tensor, int], Run]] = {
    "torch_fp32": torch_fp32,
    "torch_bf16_compiled": torch_bf16_compiled,
    "onnxruntime_fp32": onnxruntime_fp32,
    "onnxruntime_int8": onnxruntime_int8,
    "openvino_fp32": openvino_fp32,
    "openvino_bf16": openvino_bf16,
    "openvino_int8": openvino_int8,
}
# What holds torch and OpenVINO to an instruction set, in the environment before they are imported.
ISAS = {
    isa: {
        "ATEN_CPU_CAPABILITY": torch_name,
        "MKL_ENABLE_INSTRUCTIONS": torch_name.upper(),
        "ONEDNN_MAX_CPU_ISA": onednn_name,
        "DNNL_MAX_CPU_ISA": onednn_name,
    }
    for isa, torch_name, onednn_name in (
        ("avx2", "avx2", "AVX2"),
        ("avxvnni", "avx2", "AVX2_VNNI"),
        ("avx512", "avx512", "AVX512_CORE_VNNI"),
    )
}
HELD = ("torch", "openvino")  # prefixes of the peers that this holds
PACKAGES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}  # prefix of a peer -> distribution
