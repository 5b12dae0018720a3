"""How the operators of a training step are called by their tests: on this machine's device and on meta alike."""

from typing import Any

import torch
from torch import Tensor

from tests.support.triton_interpreter import DEVICE


def called(operator: Any, *arguments: Any) -> Any:
    """The operator's outputs, on the CPU; its fake form gives their shapes, dtypes and layout on meta."""
    outputs = operator(*(_on(DEVICE, argument) for argument in arguments))
    fakes = operator(*(_on("meta", argument) for argument in arguments))
    if isinstance(outputs, Tensor):
        _same_form(outputs, fakes)
        return outputs.cpu()
    for output, fake in zip(outputs, fakes, strict=True):
        _same_form(output, fake)
    return tuple(output.cpu() for output in outputs)


def _on(device: str, argument: Any) -> Any:
    return argument.to(device) if isinstance(argument, Tensor) else argument


def _same_form(output: Tensor, fake: Tensor) -> None:
    assert fake.device.type == "meta"
    assert (output.shape, output.dtype, output.stride()) == (fake.shape, fake.dtype, fake.stride())


def stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 as a kernel stores it: a GPU rounds it to the nearest bfloat16, Triton's interpreter cuts it off."""
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        value = (value.view(torch.int32) & -(1 << 16)).view(torch.float32)
    return value.to(dtype)
