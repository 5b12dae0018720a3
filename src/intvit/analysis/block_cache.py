"""A model computed only from some block on: outputs of the blocks before it are those of another run.

A change inside block k leaves what comes before untouched, so that measuring changes of every block costs half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from intvit.models.swin import network as swin
from intvit.models.vit import blocks as vit
from intvit.quant.tensor import Symbol


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of the residual blocks in the order of the forward pass."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, vit.Block | swin.Block)]


def blocks_before(model: nn.Module, site: str) -> int:
    """How many blocks end before the module `site` begins; a pattern that is no module: 0."""
    names = [name for name, _ in model.named_modules()]  # modules are registered in the order of the forward pass
    if site not in names:
        return 0
    here = names.index(site)
    return sum(
        max(i for i, name in enumerate(names) if f"{name}.".startswith(f"{block}.")) < here
        for block, _ in blocks(model)
    )


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Any]]:
    """A list that every forward pass inside appends its block outputs to, one after the other."""
    outputs: list[Any] = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for _, block in blocks(model)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def resumed(model: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Inside, the first len(outputs) blocks give these outputs instead of computing."""
    replaced = [block for (_, block), _ in zip(blocks(model), outputs, strict=False)]
    for block, output in zip(replaced, outputs, strict=True):
        # An attribute of the instance, in front of the method, which goes on for the symbols of a derivation.
        block.forward = partial(_output, block.forward, output)
    try:
        yield
    finally:
        for block in replaced:
            del block.forward


def _output(forward: Callable[[Any], Any], output: Any, x: Any) -> Any:
    return forward(x) if isinstance(x, Symbol) else output
