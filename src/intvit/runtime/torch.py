"""The torch runtime: executes a program with the normative functions of `intvit.arithmetic`, on any device.

Integers only: `proof()` exports the whole forward and finds no floating-point tensor in it. It is the definition
running, not the fast path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from intvit import arithmetic
from intvit.arithmetic import EXPONENT_KINDS, GELU_KINDS, LayerNormParameters, Normalizer, from_fields
from intvit.arithmetic.exponent import Exponent
from intvit.arithmetic.gelu import Gelu
from intvit.program import Operator, Program
from intvit.runtime import check_images


class TorchRuntime(nn.Module):
    """Callable on images uint8 (B, C, H, W) as numpy array; gives the program's output, int32."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        weights = {operator.constants["weight"] for operator in program.operators if operator.op == "linear"}
        self._buffer_names = {name: f"constant_{index}" for index, name in enumerate(program.constants)}
        for name, constant in program.constants.items():
            # Weights stay int8, the operand type of the matrix product; parameters work in int64.
            array = np.ascontiguousarray(constant.array, dtype=np.int8 if name in weights else np.int64)
            self.register_buffer(self._buffer_names[name], torch.from_numpy(array.copy()), persistent=False)
        self._last_use = {value: index for index, operator in enumerate(program.operators) for value in operator.inputs}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The output for a batch; raises ProgramError for images of another shape or type."""
        output = None
        for name, value in self._run(self._images(images)):
            if name == self.program.output:
                output = value
        assert output is not None
        return output.to(torch.int32).cpu().numpy()

    def trace(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(operator name, int64 array with the batch axis first) in program order."""
        for name, value in self._run(self._images(images)):
            yield name, value.to(torch.int64).cpu().numpy()

    def forward(self, images: Tensor) -> Tensor:
        """The output, int64, of images uint8 (B, C, H, W), as torch.export sees it."""
        values = dict(self._run(images))
        return values[self.program.output]

    def floating_tensors(self) -> list[str]:
        """Names of the floating-point tensors in the exported graph of a batch of one; empty is the proof."""
        image = torch.zeros(1, *self.program.values[self.program.input].shape, dtype=torch.uint8)
        exported = torch.export.export(_Graph(self), (image.to(self._device()),))
        names = [f"buffer {name}" for name, buffer in exported.named_buffers() if buffer.is_floating_point()]
        names += [f"constant {name}" for name, value in exported.constants.items() if _is_floating(value)]
        graphs = [module.graph for module in exported.graph_module.modules() if isinstance(module, fx.GraphModule)]
        for node in (node for graph in graphs for node in graph.nodes):  # those inside higher-order operators too
            values = node.meta.get("val")
            if any(_is_floating(value) for value in (values if isinstance(values, list | tuple) else [values])):
                names.append(f"{node.name} ({node.target})")
            names += [f"{node.name}: literal {value}" for value in node.args if isinstance(value, float)]
        return names

    def _device(self) -> torch.device:
        return next(self.buffers()).device

    def _images(self, images: np.ndarray) -> Tensor:
        check_images(self.program, images)
        # torch warns of arrays that are read-only, such as views of files
        return torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device())

    def _run(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        values = {self.program.input: images}
        for index, operator in enumerate(self.program.operators):
            inputs = [values[name] for name in operator.inputs]
            constants = {role: getattr(self, self._buffer_names[name]) for role, name in operator.constants.items()}
            batch = images.shape[0]
            value = OPERATORS[operator.op](operator, inputs, constants, batch)
            spec = self.program.values[operator.output]
            values[operator.output] = value = value.to(_container(spec.bits, spec.signed))
            for name in {*operator.inputs} - {self.program.input}:
                if self._last_use[name] == index:
                    del values[name]
            yield operator.output, value


class _Graph(nn.Module):
    """The runtime's forward on tensors as a module's call, which is what torch.export traces."""

    def __init__(self, runtime: TorchRuntime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, images: Tensor) -> Tensor:
        return self.runtime.forward(images)


def _container(bits: int, signed: bool) -> torch.dtype:
    """int8 or uint8, the operand types of the matrix product, for at most 8 bits; int32 beyond."""
    return torch.int32 if bits > 8 else torch.int8 if signed else torch.uint8


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


# ---------------------------------------------------------------- operators: (operator, inputs, constants, batch)

Inputs = list[Tensor]
Constants = dict[str, Tensor]


def _quantize_input(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    shift, bits = operator.attributes["shift"], operator.attributes["bits"]
    result = arithmetic.quantize_input(inputs[0], constants["multiplier"], constants["bias"], shift, bits)
    return result


def _patches(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    patch = operator.attributes["patch"]
    _, channels, height, width = inputs[0].shape
    x = inputs[0].reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def _constant(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    value = constants["value"]
    return value.expand(batch, *value.shape)


def _concat(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    return torch.cat(inputs, operator.attributes["axis"] + 1)


def _reshape(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    return inputs[0].reshape(batch, *operator.attributes["shape"])


def _transpose(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    return inputs[0].permute(0, *[axis + 1 for axis in operator.attributes["axes"]])


def _slice(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    start, stop = operator.attributes["start"], operator.attributes["stop"]
    return inputs[0].narrow(operator.attributes["axis"] + 1, start, stop - start)


def _gather(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    axis, index = operator.attributes["axis"] + 1, constants["index"]
    taken = inputs[0].index_select(axis, index.clamp(min=0))
    shape = [1] * taken.dim()
    shape[axis] = -1
    return taken.masked_fill((index < 0).view(shape), 0)


def _linear(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    rows = inputs[0].reshape(-1, inputs[0].shape[-1])
    products = arithmetic.integer_matmul(rows, constants["weight"].t()) + constants["bias"]
    return products.view(*inputs[0].shape[:-1], -1)


def _matmul(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    a, b = inputs
    b = b.transpose(-1, -2) if operator.attributes["transpose_b"] else b
    if b.dtype != torch.uint8:
        return arithmetic.integer_matmul(a, b)
    # u = (u - 128) + 128, and u - 128 fits int8
    signed = (b.to(torch.int16) - 128).to(torch.int8)
    return arithmetic.integer_matmul(a, signed) + 128 * a.sum(-1, keepdim=True, dtype=torch.int64)


def _requantize(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    bits, signed = operator.attributes["bits"], operator.attributes["signed"]
    result = arithmetic.requantize(inputs[0], constants["multiplier"], constants["shift"], bits, signed)
    return result


def _add(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    a, b = inputs
    b = b.view(batch, *[1] * (a.dim() - b.dim()), *b.shape[1:])
    multiplier_a, multiplier_b, shift = (constants[role] for role in ("multiplier_a", "multiplier_b", "shift"))
    return arithmetic.add(a, b, multiplier_a, multiplier_b, shift, operator.attributes["bits"])


def _layernorm(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    attributes = {"newton_steps": 0, "square_shift": 0, "channel_shift": None, "scale": 0.0, **operator.attributes}
    normalizer = from_fields(Normalizer, attributes, constants)
    parameters = from_fields(LayerNormParameters, {**attributes, "normalizer": normalizer}, constants)
    return arithmetic.layernorm(inputs[0], parameters)


def _softmax(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    exponent: Exponent = from_fields(EXPONENT_KINDS[operator.attributes["kind"]], operator.attributes, constants)
    bits, normalization = operator.attributes["bits"], operator.attributes["normalization"]
    return arithmetic.softmax(inputs[0], exponent, bits, normalization, _mask(constants))


def _exponential(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    exponent: Exponent = from_fields(EXPONENT_KINDS[operator.attributes["kind"]], operator.attributes, constants)
    return arithmetic.exponential(inputs[0], exponent, *_multiply_shift(operator), _mask(constants))


def _mask(constants: Constants) -> Tensor | None:
    return constants["mask"].to(torch.bool) if "mask" in constants else None


def _weighted_mean(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    sums, weights = inputs
    total = weights.sum(-1, keepdim=True, dtype=torch.int64)
    return arithmetic.weighted_mean(sums, total, *_multiply_shift(operator))


def _multiply_shift(operator: Operator) -> tuple[int, int, int]:
    return operator.attributes["multiplier"], operator.attributes["shift"], operator.attributes["bits"]


def _gelu(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    function: Gelu = from_fields(GELU_KINDS[operator.attributes["kind"]], operator.attributes, constants)
    return function(inputs[0])


def _upsample(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    return arithmetic.upsample(inputs[0], operator.attributes["factor"])


def _argmax(operator: Operator, inputs: Inputs, constants: Constants, batch: int) -> Tensor:
    return arithmetic.argmax(inputs[0], 1)


OPERATORS = {
    "quantize_input": _quantize_input,
    "patches": _patches,
    "constant": _constant,
    "concat": _concat,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "gather": _gather,
    "linear": _linear,
    "matmul": _matmul,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": _softmax,
    "exponential": _exponential,
    "weighted_mean": _weighted_mean,
    "gelu": _gelu,
    "upsample": _upsample,
    "argmax": _argmax,
}
