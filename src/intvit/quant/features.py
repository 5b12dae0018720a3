"""Features in which a model in integers is compared with a float one: the outputs of every LayerNorm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from intvit.quant.layers import LayerNorm
from intvit.quant.tensor import QTensor


@contextmanager
def norm_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block every forward pass appends the real values of each LayerNorm's output, with gradient."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output.differentiable() if isinstance(output, QTensor) else output)

    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, LayerNorm)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def feature_error(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over the layers of |student - teacher|^2 / |teacher|^2; pairs of equal shape."""
    errors = [
        (own - aim).square().mean() / aim.square().mean().clamp(min=1e-30)
        for own, aim in zip(student, teacher, strict=True)
    ]
    return torch.stack(errors).mean()
