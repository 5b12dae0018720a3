"""Losses, gradients and weights that are no numbers any more: noticed at once, and where they began.

On the CPU every step looks. On an accelerator looking would wait for it: there the first such step is remembered on the
device and read where metrics are logged and before anything is saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from intvit.errors import IntVitError
from intvit.quant.tensor import QTensor


class NotFinite(IntVitError):
    """Training has left the numbers; the message names step, phase and place."""


class FiniteWatch:
    """What has been seen so far: the step of the first value that was not finite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None  # float64 (), infinite while all is well

    def look(self, values: Iterable[Tensor], step: int) -> None:
        """Take note of a loss, or of gradients, of a step."""
        norms = torch._foreach_norm([value.detach() for value in values], ord=math.inf)
        if not norms:
            return
        finite = torch.stack([norm.float() for norm in norms]).isfinite().all()
        seen = torch.where(finite, math.inf, float(step))
        self._first = seen if self._first is None else torch.minimum(self._first, seen)

    def first(self, *, wait: bool) -> int | None:
        """The step of the first one, or None; wait: also where that waits for an accelerator."""
        if self._first is None or not (wait or self._first.device.type == "cpu"):
            return None
        step = float(self._first)
        return int(step) if step < math.inf else None


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether real tensors hold neither NaN nor infinity; waits for an accelerator."""
    norms = torch._foreach_norm([tensor.detach() for tensor in tensors if tensor.is_floating_point()], ord=math.inf)
    return all(bool(norm.isfinite()) for norm in norms)


@torch.no_grad()
def where_it_began(model: nn.Module, images: Tensor) -> str:
    """The first weights that are not finite, else the first layer whose output for `images` is not, in words."""
    for name, parameter in model.named_parameters():
        if not all_finite([parameter]):
            return f"the weights {name}"
    names = {module: name for name, module in model.named_modules() if name}
    found: list[str] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        parts = [output.scale, output.handle] if isinstance(output, QTensor) else [output]
        tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
        if not found and not all_finite(tensors):
            found.append(f"the output of {names[module]}")

    hooks = [module.register_forward_hook(look) for module in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    for name, parameter in reversed([*model.named_parameters()]):  # backward begins at the end
        if parameter.grad is not None and not all_finite([parameter.grad]):
            return f"the gradient of {name}"
    return "the loss"
